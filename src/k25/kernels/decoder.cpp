// A whole decoder step in one operator: absorbed latent attention over a paged cache, networks, norms, head. It composes
// the loops of work.h as engine/accelerate.py composes the operators made of them, and computes the same bits.
#include <ATen/ops/empty.h>
#include <torch/custom_class.h>

#include "work.h"

namespace k25 {
namespace {

struct Norm {
  Tensor kept;
  const float* gain;
  int64_t width;
  float eps;

  Norm(const Tensor& gain, double eps) : kept(gain), gain(floats(gain, -1, "a gain")), width(gain.numel()), eps(float(eps)) {}
  void operator()(const float* x, float* out) const { chosen->normalise(x, gain, width, eps, out); }
};

struct Router {
  Stack product;
  const float* bias;
  int64_t experts, per_token;
  float scaling;
};

struct Layer {
  std::vector<Tensor> kept;
  Norm attention_norm, key_norm, network_norm;
  std::optional<Norm> query_norm;
  Stack down, key_up, value_up, out;
  std::optional<Stack> query_up;
  std::optional<Router> router;
  Networks routed, shared;
};

struct Sizes {
  int64_t heads, nope, turned, rank, value;
  float scale;

  int64_t query() const { return nope + turned; }
  int64_t latent() const { return rank + turned; }
};

// Rows as the kernels multiply them, in parts that are padded with zeros.
struct Panel {
  std::unique_ptr<char[]> memory;
  Place place;

  Panel(int64_t rows, int64_t parts, int64_t width, bool half)
      : memory(std::make_unique<char[]>(rows * parts * width * (half ? 2 : 4))), place{memory.get(), half, parts * width, width} {}
  Rows part(int64_t p) const { return {memory.get() + p * place.part * (place.half ? 2 : 4), place.row, place.half}; }
  std::vector<Rows> parts(int64_t count) const {
    std::vector<Rows> all;
    for (int64_t p = 0; p < count; ++p) all.push_back(part(p));
    return all;
  }
  float* exact(int64_t row) const { return (float*)memory.get() + row * place.row; }
};

int64_t padded(int64_t width) { return ceil_div(width, 32) * 32; }

// One call's activations on their way through the layers.
class Step {
 public:
  Step(Crew& crew, const Sizes& sizes, const Pages& pages, int64_t tokens, int64_t hidden, int64_t projected, int64_t experts)
      : crew_(crew), s_(sizes), pages_(pages), tokens_(tokens), hidden_(hidden), half_(chosen->dots_bf16),
        sum_(tokens, 1, hidden, false), delta_(tokens, 1, hidden, false), normed_(tokens, 1, padded(hidden), false),
        input_(tokens, 1, padded(hidden), half_), projected_(tokens, 1, projected, false),
        compressed_(tokens, 1, padded(projected), half_), query_(tokens, 1, s_.heads * s_.query(), false),
        nope_(tokens, s_.heads, padded(s_.nope), half_), asked_(tokens, s_.heads, s_.latent(), pages.multiplies_bf16()),
        weighted_(tokens, s_.heads, padded(s_.rank), half_), values_(tokens, 1, padded(s_.heads * s_.value), half_),
        logits_(tokens, 1, experts, false), nopes_(nope_.parts(s_.heads)), weighteds_(weighted_.parts(s_.heads)) {}

  void begin(const Tensor& x, const Norm& norm) {
    each_row([&](int64_t t) {
      if (is_bf16(x)) chosen->to_float((const bf16*)x.data_ptr() + t * hidden_, hidden_, sum_.exact(t));
      else std::memcpy(sum_.exact(t), x.data_ptr<float>() + t * hidden_, hidden_ * sizeof(float));
      norm_row(norm, t);
    });
  }

  // The residual connection, and the norm after it.
  void add(const Norm& norm) {
    each_row([&](int64_t t) {
      chosen->add_scaled(delta_.exact(t), 1.0f, hidden_, sum_.exact(t));
      norm_row(norm, t);
    });
  }

  // turn (tokens): the rotation of each; slots (tokens) of `cache` are written.
  void attention(const Layer& layer, const float* const* turn, void* cache, const int64_t* slots) {
    const int64_t query_width = layer.query_up ? layer.query_norm->width : s_.heads * s_.query();
    product(layer.down, query_width + s_.latent(), input_, projected_.place);
    each_row([&](int64_t t) {
      const float* latent = projected_.exact(t) + query_width;
      std::vector<float> row(std::max(s_.latent(), query_width));
      layer.key_norm(latent, row.data());
      rotate(latent + s_.rank, turn[t], s_.turned, row.data() + s_.rank);
      write_row(row.data(), cache, !pages_.wide, slots[t] * s_.latent(), s_.latent());
      if (!layer.query_up) return;
      (*layer.query_norm)(projected_.exact(t), row.data());
      compressed_.place.put(t, 0, 0, row.data(), query_width);
    });
    if (layer.query_up) product(*layer.query_up, s_.heads * s_.query(), compressed_, query_.place);
    const Panel& queries = layer.query_up ? query_ : projected_;
    each_row([&](int64_t t) {
      std::vector<float> turned(s_.turned);
      for (int64_t h = 0; h < s_.heads; ++h) {
        const float* query = queries.exact(t) + h * s_.query();
        nope_.place.put(t, h, 0, query, s_.nope);
        rotate(query + s_.nope, turn[t], s_.turned, turned.data());
        asked_.place.put(t, h, s_.rank, turned.data(), s_.turned);
      }
    });
    multiply(crew_, layer.key_up, s_.rank, nopes_.data(), tokens_, asked_.place);
    Pages pages = pages_;
    pages.rows = cache;
    attend(crew_, pages, asked_.memory.get(), tokens_, s_.heads, s_.rank, s_.scale, weighted_.place);
    Place values = values_.place;
    values.part = s_.value;
    multiply(crew_, layer.value_up, s_.value, weighteds_.data(), tokens_, values);
    product(layer.out, hidden_, values_, delta_.place);
  }

  // choice (tokens, per token) is written where the layer has a router.
  void network(const Layer& layer, int64_t* choice) {
    std::vector<float> weights;
    int64_t per_token = 0;
    if (layer.router) {
      const Router& router = *layer.router;
      per_token = router.per_token;
      weights.resize(tokens_ * per_token);
      product(router.product, router.experts, normed_, logits_.place, true);
      each_row([&](int64_t t) {
        route_token(logits_.exact(t), router.bias, router.experts, per_token, router.scaling, &weights[t * per_token],
                    choice + t * per_token);
      });
    }
    const Visits visits(layer.routed, layer.shared, choice, weights.data(), per_token, tokens_);
    visit_networks(crew_, visits, input_.part(0), tokens_, hidden_, delta_.place);
  }

  // scores (count, outputs) of some rows, after the last residual connection and norm.
  void head(const Norm& norm, const Stack& head, const int64_t* rows, int64_t count, int64_t outputs, float* scores) {
    const Panel last(count, 1, padded(hidden_), half_);
    for (int64_t r = 0; r < count; ++r) {
      std::vector<float> sum(sum_.exact(rows[r]), sum_.exact(rows[r]) + hidden_), normed(hidden_);
      chosen->add_scaled(delta_.exact(rows[r]), 1.0f, hidden_, sum.data());
      norm(sum.data(), normed.data());
      last.place.put(r, 0, 0, normed.data(), hidden_);
    }
    const Rows source = last.part(0);
    multiply(crew_, head, outputs, &source, count, {scores, false, outputs, 0});
  }

 private:
  static constexpr int64_t FEW_ROWS = 8;  // fewer take less time than calling for help
  template <class F>
  void each_row(const F& run) {
    if (tokens_ >= FEW_ROWS) return crew_.each(tokens_, run);
    for (int64_t t = 0; t < tokens_; ++t) run(t);
  }
  void norm_row(const Norm& norm, int64_t t) {
    norm(sum_.exact(t), normed_.exact(t));
    input_.place.put(t, 0, 0, normed_.exact(t), hidden_);
  }
  void product(const Stack& stack, int64_t outputs, const Panel& from, const Place& to, bool exact = false) {
    const Rows source = from.part(0);
    multiply(crew_, stack, outputs, &source, tokens_, to, exact);
  }

  Crew& crew_;
  const Sizes& s_;
  const Pages pages_;
  const int64_t tokens_, hidden_;
  const bool half_;
  const Panel sum_, delta_, normed_, input_, projected_, compressed_, query_, nope_, asked_, weighted_, values_, logits_;
  const std::vector<Rows> nopes_, weighteds_;
};

class Decoder : public torch::CustomClassHolder {
 public:
  // sizes: heads, unrotated, rotated, latent and value width. rotations (positions, rotated / 2) complex64.
  Decoder(std::vector<int64_t> sizes, double scale, Tensor rotations) : rotations_(std::move(rotations)) {
    TORCH_CHECK(sizes.size() == 5, "five sizes");
    sizes_ = {sizes[0], sizes[1], sizes[2], sizes[3], sizes[4], float(scale)};
    TORCH_CHECK(sizes_.turned % 2 == 0 && rotations_.scalar_type() == at::kComplexFloat && rotations_.is_contiguous() &&
                rotations_.dim() == 2 && rotations_.size(1) * 2 == sizes_.turned, "rotations do not fit");
  }

  // norms: attention, key, network and, where queries are compressed, query; products: down, key up, value up, out and,
  // likewise, query up; router: words and bias, or none.
  void add_layer(std::vector<Tensor> norms, std::vector<double> eps, std::vector<Tensor> products, std::vector<Tensor> router,
                 int64_t per_token, double scaling, std::vector<Tensor> routed, std::vector<Tensor> shared) {
    const bool compressed = norms.size() == 4;
    TORCH_CHECK(norms.size() >= 3 && eps.size() == norms.size() && products.size() == norms.size() + 1, "parts of a layer are missing");
    Layer layer{.kept = {}, .attention_norm = {norms[0], eps[0]}, .key_norm = {norms[1], eps[1]},
                .network_norm = {norms[2], eps[2]}, .query_norm = {}, .down = {products[0], {}},
                .key_up = {products[1], {}}, .value_up = {products[2], {}}, .out = {products[3], {}}, .query_up = {},
                .router = {}, .routed = Networks(routed), .shared = Networks(shared)};
    const int64_t hidden = layer.attention_norm.width, queries = sizes_.heads * sizes_.query();
    if (compressed) {
      layer.query_norm.emplace(norms[3], eps[3]);
      layer.query_up.emplace(products[4], std::nullopt);
      TORCH_CHECK(layer.query_up->maps(layer.query_norm->width, queries), "a query product does not fit");
    }
    const int64_t projected = (compressed ? layer.query_norm->width : queries) + sizes_.latent();
    TORCH_CHECK(layer.network_norm.width == hidden && layer.key_norm.width == sizes_.rank && layer.down.maps(hidden, projected) &&
                layer.key_up.matrices == sizes_.heads && layer.key_up.maps(sizes_.nope, sizes_.rank) &&
                layer.value_up.matrices == sizes_.heads && layer.value_up.maps(sizes_.rank, sizes_.value) &&
                layer.out.maps(sizes_.heads * sizes_.value, hidden) && layer.routed.fit(hidden) && layer.shared.fit(hidden),
                "a layer's weights do not fit each other");
    TORCH_CHECK(router.empty() != bool(layer.routed.up) && (router.empty() || router.size() == 2), "a router has words and a bias");
    if (!router.empty()) {
      const int64_t experts = layer.routed.down->matrices;
      layer.router = Router{{router[0], std::nullopt}, floats(router[1], experts, "a router's bias"), experts, per_token, float(scaling)};
      TORCH_CHECK(layer.router->product.maps(hidden, experts) && per_token > 0 && per_token <= experts &&
                  (per_token_ == 0 || per_token == per_token_), "a router does not fit");
      per_token_ = per_token, mixtures_ += 1, experts_ = std::max(experts_, experts);
    }
    for (const auto* parts : {&products, &router, &routed, &shared}) layer.kept.insert(layer.kept.end(), parts->begin(), parts->end());
    projected_ = std::max(projected_, projected);
    TORCH_CHECK(layers_.empty() || layers_[0].attention_norm.width == hidden, "layers of different widths");
    layers_.push_back(std::move(layer));
  }

  void add_head(const Tensor& gain, double eps, const Tensor& words, int64_t outputs) {
    last_norm_.emplace(gain, eps);
    head_.emplace(words, std::nullopt);
    head_words_ = words, outputs_ = outputs;
    TORCH_CHECK(!layers_.empty() && last_norm_->width == layers_[0].attention_norm.width &&
                head_->maps(last_norm_->width, outputs), "the head does not fit the layers");
  }

  // x (T, D), positions (T,) int64, tables (T, P) int32, rows (R,) int64, cache (layers, slots, latent width), which is
  // written -> scores (R, outputs) float, and the experts (mixtures, T, K) that were chosen.
  std::tuple<Tensor, Tensor> step(const Tensor& x, const Tensor& positions, const Tensor& tables, const Tensor& rows,
                                  const Tensor& cache, int64_t page_size) {
    TORCH_CHECK(head_.has_value(), "the decoder has no head yet");
    const int64_t hidden = last_norm_->width, tokens = positions.numel(), layers = int64_t(layers_.size());
    check_values(x, "x");
    check_values(cache, "cache");
    TORCH_CHECK(x.is_contiguous() && x.dim() == 2 && x.size(0) == tokens && x.size(1) == hidden && positions.is_contiguous() &&
                positions.scalar_type() == at::kLong && tables.is_contiguous() && tables.scalar_type() == at::kInt &&
                tables.dim() == 2 && tables.size(0) == tokens && rows.is_contiguous() && rows.scalar_type() == at::kLong &&
                cache.is_contiguous() && cache.dim() == 3 && cache.size(0) == layers && cache.size(2) == sizes_.latent() &&
                page_size > 0 && cache.size(1) % page_size == 0, "inputs of a step do not fit each other");
    const int64_t *position = positions.data_ptr<int64_t>(), *row = rows.data_ptr<int64_t>();
    const int32_t* table = tables.data_ptr<int32_t>();
    std::vector<int32_t> lengths(tokens);
    for (int64_t t = 0; t < tokens; ++t) {
      TORCH_CHECK(position[t] >= 0 && position[t] < rotations_.size(0), "a position lies outside the context");
      lengths[t] = int32_t(position[t] + 1);
    }
    for (int64_t r = 0; r < rows.numel(); ++r) TORCH_CHECK(row[r] >= 0 && row[r] < tokens, "there is no such row");
    const Pages pages{.rows = nullptr, .wide = !is_bf16(cache), .page_size = page_size, .width = sizes_.latent(),
                      .tables = table, .table_stride = tables.size(1), .lengths = lengths.data()};
    check_pages(pages, tokens, cache.size(1) / page_size);
    std::vector<int64_t> slots(tokens);
    std::vector<const float*> turns(tokens);
    for (int64_t t = 0; t < tokens; ++t) {
      slots[t] = table[t * tables.size(1) + position[t] / page_size] * page_size + position[t] % page_size;
      turns[t] = (const float*)rotations_.data_ptr() + position[t] * sizes_.turned;
    }
    Tensor scores = at::empty({rows.numel(), outputs_}, x.options().dtype(at::kFloat));
    Tensor choices = at::empty({mixtures_, tokens, per_token_}, x.options().dtype(at::kLong));
    int64_t* choice = choices.data_ptr<int64_t>();
    with_crew(duration_of(tokens), [&](Crew& crew) {
      Step step(crew, sizes_, pages, tokens, hidden, projected_, experts_);
      step.begin(x, layers_[0].attention_norm);
      for (int64_t l = 0; l < layers; ++l) {
        const Layer& layer = layers_[l];
        if (l > 0) step.add(layer.attention_norm);
        step.attention(layer, turns.data(), (char*)cache.data_ptr() + l * cache.stride(0) * cache.element_size(), slots.data());
        step.add(layer.network_norm);
        step.network(layer, choice);
        if (layer.router) choice += tokens * per_token_;
      }
      step.head(*last_norm_, *head_, row, rows.numel(), outputs_, scores.data_ptr<float>());
    });
    return {scores, choices};
  }

 private:
  // A lower bound: routed experts as if all rows chose the same.
  double duration_of(int64_t tokens) const {
    double all = head_->duration_of(1);
    for (const Layer& layer : layers_) {
      all += layer.down.duration_of(tokens) + layer.out.duration_of(tokens);
      if (layer.routed.down) all += layer.routed.down->duration_of(tokens) * 3 * double(per_token_) / double(layer.routed.down->matrices);
      if (layer.shared.down) all += layer.shared.down->duration_of(tokens) * 3;
    }
    return all;
  }

  Sizes sizes_;
  Tensor rotations_, head_words_;
  std::vector<Layer> layers_;
  std::optional<Norm> last_norm_;
  std::optional<Stack> head_;
  int64_t outputs_ = 0, per_token_ = 0, mixtures_ = 0, experts_ = 0, projected_ = 0;
};

}  // namespace
}  // namespace k25

using k25::Decoder;
using Tensors = std::vector<at::Tensor>;

TORCH_LIBRARY_FRAGMENT(k25_kernels, m) {
  m.class_<Decoder>("Decoder")
      .def(torch::init<std::vector<int64_t>, double, at::Tensor>())
      .def("add_layer", &Decoder::add_layer)
      .def("add_head", &Decoder::add_head)
      .def("step", &Decoder::step);
}
