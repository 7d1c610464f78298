// A small part of Markdown, built from DOM nodes: text of a model never becomes HTML.

import { element } from "./dom.js";

const FENCE = /^\s*(`{3,}|~{3,})\s*([\w+#.-]*)\s*$/;
const HEADING = /^(#{1,6})\s+(.*?)\s*#*$/;
const ITEM = /^(\s*)([-*+]|\d{1,9}[.)])\s+(.*)$/;
const RULE = /^\s*([-*_])(\s*\1){2,}\s*$/;
const TABLE_RULE = /^\s*\|?\s*:?-+:?\s*(\|\s*:?-+:?\s*)*\|?\s*$/;
const SAFE_SCHEMES = new Set(["http:", "https:", "mailto:"]);

// Renders into `container`, keeping the nodes of blocks that have not changed since the last call.
export function renderMarkdown(container, text) {
  const blocks = splitBlocks(text.split("\n"));
  const known = container.renderedBlocks ?? [];
  let same = 0;
  while (same < blocks.length && same < known.length && blocks[same].source === known[same]) same += 1;
  while (container.childNodes.length > same) container.lastChild.remove();
  for (const block of blocks.slice(same)) container.append(renderBlock(block));
  container.renderedBlocks = blocks.map((block) => block.source);
}

function splitBlocks(lines) {
  const blocks = [];
  let at = 0;
  while (at < lines.length) {
    if (!lines[at].trim()) {
      at += 1;
      continue;
    }
    const start = at;
    const kind = blockKind(lines, at);
    at = blockEnd(kind, lines, at);
    const own = lines.slice(start, at);
    blocks.push({ kind, lines: own, source: `${kind}\n${own.join("\n")}` });
  }
  return blocks;
}

function blockKind(lines, at) {
  const line = lines[at];
  if (FENCE.test(line)) return "code";
  if (HEADING.test(line)) return "heading";
  if (RULE.test(line)) return "rule";
  if (ITEM.test(line)) return "list";
  if (line.startsWith(">")) return "quote";
  if (line.includes("|") && TABLE_RULE.test(lines[at + 1] ?? "")) return "table";
  return "paragraph";
}

function blockEnd(kind, lines, at) {
  if (kind === "heading" || kind === "rule") return at + 1;
  if (kind === "code") return codeEnd(lines, at);
  if (kind === "table") return runEnd(lines, at + 2, (line) => line.includes("|"));
  if (kind === "quote") return runEnd(lines, at + 1, (line) => line.startsWith(">"));
  if (kind === "list") return listEnd(lines, at);
  let end = at + 1;
  while (end < lines.length && lines[end].trim() && blockKind(lines, end) === "paragraph") end += 1;
  return end;
}

function runEnd(lines, at, belongs) {
  while (at < lines.length && belongs(lines[at])) at += 1;
  return at;
}

function codeEnd(lines, at) {
  const marker = FENCE.exec(lines[at])[1];
  const closing = (line) => line.trim().startsWith(marker) && FENCE.exec(line)?.[2] === "";
  return Math.min(lines.length, runEnd(lines, at + 1, (line) => !closing(line)) + 1);
}

function listEnd(lines, at) {
  let end = at + 1;
  while (end < lines.length && !FENCE.test(lines[end])) {
    const blank = !lines[end].trim();
    const next = blank ? (lines[end + 1] ?? "") : lines[end];
    const belongs = (ITEM.test(next) && !RULE.test(next)) || (/^\s+\S/.test(next) && !FENCE.test(next));
    const lazy = !blank && blockKind(lines, end) === "paragraph";
    if (!belongs && !lazy) break;
    end += 1;
  }
  return end;
}

function renderBlock({ kind, lines }) {
  if (kind === "code") return renderCode(lines);
  if (kind === "heading") return renderHeading(lines[0]);
  if (kind === "rule") return element("hr");
  if (kind === "list") return renderList(listItems(lines));
  if (kind === "quote") return renderQuote(lines);
  if (kind === "table") return renderTable(lines);
  return element("p", {}, renderInline(lines.join("\n").trim()));
}

function renderCode(lines) {
  const [, marker, language] = FENCE.exec(lines[0]);
  const closed = lines.length > 1 && lines.at(-1).trim().startsWith(marker);
  const indent = /^\s*/.exec(lines[0])[0];
  const body = lines.slice(1, closed ? -1 : undefined);
  const text = body.map((line) => (line.startsWith(indent) ? line.slice(indent.length) : line)).join("\n");
  const copy = element("button", { type: "button", className: "copy-code" }, "Copy");
  const head = element("div", { className: "code-head" }, element("span", {}, language || "text"), copy);
  const code = element("pre", { tabIndex: 0 }, element("code", {}, text));
  return element("div", { className: "code-block" }, head, code);
}

function renderHeading(line) {
  const [, marks, text] = HEADING.exec(line);
  return element(`h${Math.min(6, marks.length + 2)}`, {}, renderInline(text)); // the page has its own h1 and h2
}

function renderQuote(lines) {
  const quote = element("blockquote");
  for (const block of splitBlocks(lines.map((line) => line.replace(/^> ?/, "")))) {
    quote.append(block.kind === "quote" ? element("p", {}, block.lines.join("\n")) : renderBlock(block));
  }
  return quote;
}

function listItems(lines) {
  const items = [];
  for (const line of lines) {
    const match = ITEM.exec(line);
    if (match && !RULE.test(line)) {
      items.push({ indent: match[1].replaceAll("\t", "    ").length, marker: match[2], text: match[3] });
    } else if (line.trim()) items.at(-1).text += `\n${line.trim()}`;
  }
  return items;
}

function renderList(items) {
  const ordered = (item) => /\d/.test(item.marker);
  const open = (item) => {
    const list = element(ordered(item) ? "ol" : "ul");
    if (ordered(item)) list.start = Number.parseInt(item.marker, 10);
    return { list, indent: item.indent };
  };
  const stack = [open(items[0])];
  for (const item of items) {
    while (stack.length > 1 && item.indent < stack.at(-1).indent) stack.pop();
    if (item.indent > stack.at(-1).indent + 1 && stack.length < 16) {
      const deeper = open(item);
      stack.at(-1).list.lastElementChild?.append(deeper.list);
      stack.push(deeper);
    }
    stack.at(-1).list.append(element("li", {}, renderInline(item.text)));
  }
  return stack[0].list;
}

function renderTable(lines) {
  const cells = (line) => line.trim().replace(/^\||\|$/g, "").split("|");
  const row = (line, tag) => element("tr", {}, ...cells(line).map((cell) => element(tag, {}, renderInline(cell.trim()))));
  const body = lines.slice(2).map((line) => row(line, "td"));
  const table = element("table", {}, element("thead", {}, row(lines[0], "th")), element("tbody", {}, ...body));
  return element("div", { className: "table", tabIndex: 0 }, table);
}

// Code, bold, italics, links and bare addresses; everything else is text.
function renderInline(text, depth = 0) {
  const fragment = document.createDocumentFragment();
  let plain = "";
  let at = 0;
  const flush = () => {
    if (plain) fragment.append(plain);
    plain = "";
  };
  const hopeless = new Set(); // markers that have no partner further on
  while (at < text.length) {
    const found = depth < 4 && "`*[h".includes(text[at]) ? inlineAt(text, at, hopeless, depth) : null;
    if (found) {
      flush();
      fragment.append(found.node);
      at = found.end;
    } else {
      plain += text[at];
      at += 1;
    }
  }
  flush();
  return fragment;
}

function inlineAt(text, at, hopeless, depth) {
  if (text[at] === "`") return spanAt(text, at, /^`+/.exec(text.slice(at, at + 8))[0], "code", hopeless, depth);
  if (text.startsWith("**", at)) return spanAt(text, at, "**", "strong", hopeless, depth);
  if (text[at] === "*") return spanAt(text, at, "*", "em", hopeless, depth);
  if (text[at] === "[") return linkAt(text, at, depth);
  const bare = /^https?:\/\/[^\s<>"'`|]*[^\s<>"'`|.,;:!?)\]*]/.exec(text.slice(at, at + 2000));
  const node = bare && !/\w/.test(text[at - 1] ?? "") && link(bare[0], bare[0]);
  return node ? { node, end: at + bare[0].length } : null;
}

function spanAt(text, at, marker, tag, hopeless, depth) {
  if (hopeless.has(marker)) return null;
  const start = at + marker.length;
  const end = text.indexOf(marker, start);
  if (end < 0) hopeless.add(marker);
  if (end <= start) return null;
  const inside = text.slice(start, end);
  const length = end + marker.length;
  if (tag === "code") return { node: element("code", {}, inside.replace(/^ (.*) $/, "$1")), end: length };
  if (/^\s|\s$/.test(inside)) return null;
  return { node: element(tag, {}, renderInline(inside, depth + 1)), end: length };
}

function linkAt(text, at, depth) {
  const match = /^\[([^\][]{1,500})\]\(\s*([^\s()]{1,2000}(?:\([^\s()]{0,500}\)[^\s()]{0,500})?)\s*\)/.exec(text.slice(at, at + 3100));
  const node = match && link(match[2], renderInline(match[1], depth + 1));
  return node ? { node, end: at + match[0].length } : null;
}

function link(address, content) {
  let url;
  try {
    url = new URL(address);
  } catch {
    return null;
  }
  if (!SAFE_SCHEMES.has(url.protocol)) return null;
  return element("a", { href: url.href, target: "_blank", rel: "noopener noreferrer nofollow", title: url.href }, content);
}
