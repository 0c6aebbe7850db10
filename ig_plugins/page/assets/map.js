// The tree of lanes as a map: a column a try, a node a lane. Arrow keys walk it, and the lane under them is told beside it.

const NARROW = 62, WIDE = 130, ROW = 24, EDGE = 22, HEAD = 40;

function start(at, step) {
  return EDGE + at * step; // where a search begins: at its prompt, and once more where it begins anew
}

function placed(columns, step) {
  // Lanes stand near their parents, those that went on first, so that few edges cross.
  const rank = (node) => (node.chosen ? 0 : node.lane.fate === "beam" ? 1 : node.lane.fate === "answer" ? 2 : 3);
  for (const nodes of columns) {
    nodes.sort((a, b) => (a.parent ? a.parent.row : 0) - (b.parent ? b.parent.row : 0) || rank(a) - rank(b) || a.lane.lane - b.lane.lane);
    nodes.sort((a, b) => (a.chosen ? 0 : 1) - (b.chosen ? 0 : 1));
    nodes.forEach((node, row) => { node.row = row; });
  }
  for (const node of columns.flat()) {
    node.x = EDGE + step / 2 + node.at * step;
    node.y = HEAD + 16 + node.row * ROW;
  }
}

function edge(node, step) {
  const x = node.parent ? node.parent.x : start(node.at, step), y = node.parent ? node.parent.y : HEAD + 16;
  const middle = (x + node.x) / 2;
  return s("path", {
    class: `edge ${node.lane.fate}${node.chosen ? " chosen" : ""}`,
    d: `M${x} ${y}C${middle} ${y} ${middle} ${node.y} ${node.x} ${node.y}`,
  });
}

function shape(node) {
  const { x, y } = node, { fate } = node.lane, r = 6;
  const box = (d) => s("path", { class: "shape", d });
  if (fate === "answer") return box(`M${x} ${y - 8}l8 8-8 8-8-8z`);
  if (fate === "over_budget" || fate === "part_refused") return box(`M${x - 5} ${y - 5}l10 10M${x + 5} ${y - 5}l-10 10`);
  return s("circle", { class: "shape", cx: x, cy: y, r: fate === "unread" ? 3 : r });
}

function map(trace, { columns, answer }, room, told) {
  const step = Math.max(NARROW, Math.min(WIDE, (room - EDGE) / columns.length));
  placed(columns, step);
  const nodes = columns.flat(), most = Math.max(1, ...columns.map((each) => each.length));
  const width = EDGE + columns.length * step, height = HEAD + 16 + most * ROW;
  const items = new Map();
  const group = (node) => {
    const made = s("g", {
      class: `node ${node.lane.fate}${node.chosen ? " chosen" : ""}`, role: "treeitem", id: `lane-${node.at}-${node.lane.lane}`,
      "aria-level": node.at + 1, "aria-selected": "false", "aria-label": laneTitle(node, trace, answer),
      onclick: () => choose(node),
    },
    s("rect", { class: "target", x: node.x - 14, y: node.y - ROW / 2, width: node.times > 1 ? 40 : 28, height: ROW }),
    shape(node),
    node.lane.fate === "doubtful" ? s("text", { class: "letter", x: node.x, y: node.y + 4, "text-anchor": "middle" }, "?") : null,
    node.times > 1 ? s("text", { class: "times", x: node.x + 9, y: node.y + 9 }, `×${node.times}`) : null);
    items.set(node, made);
    return made;
  };
  const column = (each, at) => s("text", { class: `column ${each.verdict}`, x: EDGE + step / 2 + at * step, y: 16, "text-anchor": "middle" },
    each.verdict === "done" ? String(each.block + 1) : `${each.block + 1} ${{ again: "↻", wider: "⇉", dead_end: "✕" }[each.verdict]}`);
  const free = (each, at) => (each.release ? s("text", {
    class: `release ${each.release.passed ? "" : "refused"}`, x: EDGE + step / 2 + at * step, y: 32, "text-anchor": "middle",
  }, each.release.passed ? "▸ out" : "✕ held") : null);
  const picture = s("svg", {
    class: "map", width, height, viewBox: `0 0 ${width} ${height}`, role: "tree", tabindex: "0",
    "aria-label": "Lanes by block. Arrow keys: left to the lane before, right to the best that follows, up and down within a block, End to the answer.",
    onkeydown: (event) => {
      const next = walk(event.key);
      if (!next) return;
      event.preventDefault();
      choose(next);
    },
  },
  s("g", { role: "presentation", "aria-hidden": "true" }, trace.tries.map(column), trace.tries.map(free),
    nodes.filter((node) => !node.chosen).map((node) => edge(node, step)), nodes.filter((node) => node.chosen).map((node) => edge(node, step)),
    trace.tries.map((each, at) => (at && trace.tries[at - 1].search === each.search ? null
      : s("circle", { class: "root", cx: start(at, step), cy: HEAD + 16, r: 5 })))),
  s("g", { role: "presentation" }, nodes.map(group)));

  const holder = h("div", { class: "mapbox" }, picture);
  let now = null;
  function choose(node) {
    if (now) {
      items.get(now).classList.remove("now");
      items.get(now).setAttribute("aria-selected", "false");
    }
    now = node;
    items.get(node).classList.add("now");
    items.get(node).setAttribute("aria-selected", "true");
    picture.setAttribute("aria-activedescendant", `lane-${node.at}-${node.lane.lane}`);
    const away = node.x - holder.scrollLeft;
    if (away < 60 || away > holder.clientWidth - 60) holder.scrollLeft = node.x - holder.clientWidth / 2;
    told(node);
  }
  function walk(key) {
    const beside = columns[now.at];
    const best = [...now.children].sort((a, b) => b.chosen - a.chosen || (b.lane.fate === "beam") - (a.lane.fate === "beam") || a.row - b.row);
    return {
      ArrowLeft: now.parent, ArrowRight: best[0], ArrowUp: beside[now.row - 1], ArrowDown: beside[now.row + 1],
      Home: columns[0][0], End: answer,
    }[key];
  }
  return { holder, choose, first: answer || nodes[nodes.length - 1] || null };
}

function legend(nodes) {
  const present = Object.entries(FATES).filter(([fate]) => fate !== "repeat" && nodes.some((node) => node.lane.fate === fate));
  return h("ul", { class: "legend fates" }, present.map(([fate, { sign, name }]) =>
    h("li", {}, h("span", { class: `sign ${fate}`, "aria-hidden": "true" }, sign), name)),
  nodes.some((node) => node.times > 1) ? h("li", {}, h("span", { class: "sign", "aria-hidden": "true" }, "×2"), " lanes that say the same") : null);
}
