// The visible text of a page, with its links, buttons and fields numbered; runs inside the page.
() => {
  const elements = [];
  const pieces = [];
  let length = 0;
  const limit = 1000000;
  const blocks = new Set(["block", "flex", "grid", "table", "list-item", "table-row", "flow-root"]);
  const skipped = new Set(["SCRIPT", "STYLE", "NOSCRIPT", "TEMPLATE", "SVG", "IFRAME", "HEAD"]);
  const add = (text) => { pieces.push(text); length += text.length; };
  const number = (element) => { elements.push(element); return elements.length; };
  const field = (element) => {
    const label = element.getAttribute("aria-label") || element.getAttribute("placeholder") || element.name || "";
    if (element.tagName === "SELECT") {
      const options = Array.from(element.options).slice(0, 50).map((option) => option.text.trim()).join(" / ");
      return ` [#${number(element)} choice "${label}": ${options}] `;
    }
    const kind = element.tagName === "TEXTAREA" ? "text" : element.type;
    const state = kind === "checkbox" || kind === "radio" ? (element.checked ? "on" : "off")
      : kind === "password" ? "" : element.value;
    return ` [#${number(element)} ${kind} "${label}" = "${state}"] `;
  };
  const walk = (node) => {
    if (length > limit) return;
    if (node.nodeType === Node.TEXT_NODE) {
      const parent = node.parentElement;
      const keep = parent && getComputedStyle(parent).whiteSpace.startsWith("pre");
      add(keep ? node.data : node.data.replace(/\s+/g, " "));
      return;
    }
    if (node.nodeType !== Node.ELEMENT_NODE || skipped.has(node.tagName.toUpperCase())) return;
    const style = getComputedStyle(node);
    if (style.display === "none" || style.visibility === "hidden" || Number(style.opacity) === 0) return;
    if (node.tagName === "BR") { add("\n"); return; }
    if (node.tagName === "IMG") { if (node.alt) add(`[image: ${node.alt}]`); return; }
    if (["INPUT", "TEXTAREA", "SELECT"].includes(node.tagName)) {
      if (node.type !== "hidden") add(field(node));
      return;
    }
    const block = blocks.has(style.display);
    if (block) add("\n");
    const heading = /^H([1-6])$/.exec(node.tagName);
    if (heading) add("\n" + "#".repeat(Number(heading[1])) + " ");
    if (node.tagName === "LI") add("- ");
    if ((node.tagName === "TD" || node.tagName === "TH") && node.previousElementSibling) add(" | ");
    const link = node.tagName === "A" && node.href;
    const button = node.tagName === "BUTTON" || node.getAttribute("role") === "button" || node.hasAttribute("onclick");
    if (node.shadowRoot) for (const child of node.shadowRoot.childNodes) walk(child);
    for (const child of node.childNodes) walk(child);
    if (link) add(` [#${number(node)}]`);
    else if (button) add(` [#${number(node)} button]`);
    if (block) add("\n");
  };
  if (document.body) walk(document.body);
  const text = pieces.join("").replace(/[ \t]+\n/g, "\n").replace(/\n{3,}/g, "\n\n").trim();
  return { text, title: document.title, type: document.contentType, elements };
}
