// The whole view of one document.

function tree(trace, drawn, room) {
  const panel = h("div", { class: "card inspector", "aria-live": "polite" });
  const { holder, choose, first } = map(trace, drawn, room, (node) => panel.replaceChildren(...inspector(node, trace, drawn.answer).filter(Boolean)));
  const section = h("section", { "aria-labelledby": "tree" },
    h("h2", { id: "tree" }, "How it was found"),
    h("p", { class: "muted" }, `Each column is a block of up to ${trace.block_tokens} tokens, each mark a lane. `,
      "Choose one with the mouse or the arrow keys to see what it says and why it went on or not."),
    legend(drawn.columns.flat()), holder, panel);
  return { section, begin: () => first && choose(first) };
}

function save(shown) {
  const name = "inferenceguard-trace.json";
  return h("p", {}, h("button", {
    type: "button", class: "plain",
    onclick: () => {
      const url = URL.createObjectURL(new Blob([JSON.stringify(shown, null, 1)], { type: "application/json" }));
      h("a", { href: url, download: name }).click();
      URL.revokeObjectURL(url);
    },
  }, "Save as JSON"));
}

function show(shown, root) {
  const { trace } = shown.result, drawn = graph(trace);
  const { section, begin } = tree(trace, drawn, root.clientWidth - 80);
  root.replaceChildren(head(shown), answers(shown), budget(shown), section, blocks(trace, drawn), save(shown));
  begin();
}

const held = document.getElementById("document");
if (held) show(JSON.parse(held.textContent), document.getElementById("view"));
