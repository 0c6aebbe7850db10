// z, the budget that is left, along the answer: a line for each side, and the ground on which nothing may leave.

function ticks(low, high, about) {
  const rough = (high - low) / about || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((each) => each * power).find((each) => each >= rough);
  const found = [];
  for (let at = Math.ceil(low / step) * step; at <= high + step / 1e6; at += step) found.push(Math.abs(at) < step / 1e6 ? 0 : at);
  return found;
}

function chart(lines, width, label) {
  const height = 260, left = 52, right = 16, top = 14, bottom = 40;
  const all = lines.flatMap((line) => line.points);
  const end = Math.max(1, ...all.map((point) => point.tokens));
  const states = [0, ...all.map((point) => point.state)];
  const spread = Math.max(...states) - Math.min(...states) || 1;
  const low = Math.min(...states) - 0.08 * spread, high = Math.max(...states) + 0.08 * spread;
  const start = Math.min(0, ...all.map((point) => point.tokens));
  const x = (tokens) => left + ((tokens - start) / (end - start)) * (width - left - right);
  const y = (state) => top + ((high - state) / (high - low)) * (height - top - bottom);
  const path = (points) => points.map((point, at) => `${at ? "L" : "M"}${x(point.tokens).toFixed(1)} ${y(point.state).toFixed(1)}`).join("");
  return s("svg", { class: "chart", width, height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label },
    s("rect", { class: "spent", x: left, y: y(0), width: width - left - right, height: height - bottom - y(0) }),
    ticks(low, high, 5).map((state) => [
      s("line", { class: "grid", x1: left, x2: width - right, y1: y(state), y2: y(state) }),
      s("text", { x: left - 8, y: y(state) + 4, "text-anchor": "end" }, number(state, spread < 2 ? 2 : spread < 20 ? 1 : 0)),
    ]),
    ticks(start, end, width / 110).filter((each) => Number.isInteger(each)).map((tokens) =>
      s("text", { x: x(tokens), y: height - bottom + 18, "text-anchor": "middle" }, String(tokens))),
    s("text", { x: (left + width - right) / 2, y: height - 4, "text-anchor": "middle" }, "tokens of the answer"),
    s("line", { class: "zero", x1: left, x2: width - right, y1: y(0), y2: y(0) }),
    lines.map((line) => {
      const last = line.points[line.points.length - 1];
      return [s("path", { class: `line ${line.kind}`, d: path(line.points) }),
        s("circle", { class: `end ${line.kind}`, cx: x(last.tokens), cy: y(last.state), r: 4 })];
    }));
}

function withStart(line) {
  const first = line.points.length ? Math.min(0, line.points[0].tokens - 1) : 0;
  return line.accounting === "cumulative" ? [{ tokens: first, state: line.limit }, ...line.points] : line.points;
}

function budgetOf(line, other, text) {
  const lines = [
    ...(other && other.points.length ? [{ kind: "base", points: withStart(other) }] : []),
    ...(line.points.length ? [{ kind: "guard", points: withStart(line) }] : []),
  ];
  const name = `${line.name}: budget ${number(line.limit)}, ${ACCOUNTS[line.accounting]}, must be safe ${READINGS[line.reading]}`;
  if (!lines.length) return h("div", { class: "cost" }, h("h3", {}, name), h("p", { class: "muted" }, "No answer was given, so there is no line."));
  const said = lines.map((each) => {
    const last = each.points[each.points.length - 1];
    return `${each.kind === "guard" ? "guarded" : "unguarded"}: ${number(last.state)} left after ${count(last.tokens, "token")}`;
  });
  const holder = h("div", { class: "plot" });
  const draw = () => holder.replaceChildren(chart(lines, Math.max(280, holder.clientWidth || 640), `${text} ${name}. ${said.join("; ")}.`));
  new ResizeObserver(draw).observe(holder);
  return h("div", { class: "cost" }, h("h3", {}, name), h("p", { class: "legend" }, lines.map((each, at) =>
    h("span", { class: `key ${each.kind}` }, said[at]))), holder);
}

function budget({ result, unguarded }) {
  const lines = result.trace.costs;
  const rows = result.blocks.map((block) => [String(block.index + 1), String(block.candidates), String(block.safe),
    String(block.tries), number(block.cost), number(block.safety_state), String(block.tokens)]);
  return h("section", { "aria-labelledby": "budget" },
    h("h2", { id: "budget" }, "Budget left along the answer"),
    h("p", { class: "muted" }, "z starts at the budget and falls with what the answer costs. In the shaded ground nothing may leave."),
    lines.map((line, at) => budgetOf(line, unguarded && unguarded.lines[at], "Budget left against tokens.")),
    rows.length ? h("details", {}, h("summary", {}, "The same in figures, block by block"),
      table(["block", "lanes", "safe", "tries", "cost", "budget left", "tokens"], rows, "The ledger of blocks")) : null);
}
