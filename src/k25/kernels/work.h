// What one decode step consists of, as loops that a crew shares; operators.cpp makes an operator of each, decoder.cpp one
// of them all.
#pragma once
#include "operators.h"

namespace k25 {

// Where results go: those of row r and part p (a matrix of a stack, a head) start `r * row + p * part` values after `data`.
struct Place {
  void* data;
  bool half;  // bf16
  int64_t row, part;

  void put(int64_t r, int64_t p, int64_t at, const float* from, int64_t count) const {
    write_row(from, data, half, r * row + p * part + at, count);
  }
};

// Matrix s of the stack times `tokens` rows of sources[s], to part s of `out`. `exact`: the sources are float.
void multiply(Crew& crew, const Stack& stack, int64_t outputs, const Rows* sources, int64_t tokens, const Place& out,
              bool exact = false);

// One SwiGLU network and the tokens that visit it.
struct Visit {
  const Stack* up;    // matrices 2 * network (gate) and 2 * network + 1 (up)
  const Stack* down;
  int64_t network;
  int64_t first, count;  // its rows: places in `Visits`, and in the hidden activations
};

// Who visits whom: experts in ascending order, then the shared networks.
struct Visits {
  std::vector<Visit> all;
  int64_t choices;  // rows of the experts; a shared network has one of each token
  std::vector<int32_t> tokens;
  std::vector<float> weights;

  // experts, weights: (tokens, k).
  Visits(const Networks& routed, const Networks& shared, const int64_t* experts, const float* weights, int64_t k, int64_t tokens);
  double duration() const;
};

// out (tokens, width) = sum over a token's visits of weight * SwiGLU(x).
void visit_networks(Crew& crew, const Visits& visits, const Rows& x, int64_t tokens, int64_t width, const Place& out);

// Sequences' cached rows: see latent_attention.
struct Pages {
  const void* rows;
  bool wide;  // float, else bf16
  int64_t page_size, width;
  const int32_t* tables;
  int64_t table_stride;
  const int32_t* lengths;

  bool multiplies_bf16() const { return chosen->dots_bf16 && !wide; }
};

// The largest context; the pages of a row's first `lengths[t]` tokens must exist.
void check_pages(const Pages& pages, int64_t tokens, int64_t count);

// query (tokens, heads, width), bf16 where the pages multiply it, else float; weighted latents of head h to part h.
void attend(Crew& crew, const Pages& pages, const void* query, int64_t tokens, int64_t heads, int64_t values, float scale,
            const Place& out);
double attention_duration(const Pages& pages, int64_t tokens, int64_t heads);

// Interleaved pairs of x times complex numbers of size 1.
void rotate(const float* x, const float* turn, int64_t width, float* out);

// Weights that sum to `scaling`, and experts, of one token.
void route_token(const float* logits, const float* bias, int64_t experts, int64_t k, float scaling, float* weights, int64_t* choice);

}  // namespace k25
