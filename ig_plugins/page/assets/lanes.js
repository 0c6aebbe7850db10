// A trace as a graph: every different lane of every try with its parent, and what can be said of one.

function graph(trace) {
  const columns = trace.tries.map((each, at) => {
    const found = [], known = new Map();
    for (const lane of each.lanes) {
      const key = JSON.stringify([lane.beam, lane.text, lane.end]);
      const same = known.get(key);
      if (same && (lane.fate === "repeat" || same.lane.fate === "repeat")) {
        if (same.lane.fate === "repeat") same.lane = lane;
        same.times += 1;
        same.numbers.push(lane.lane);
        continue;
      }
      const node = { at, lane, numbers: [lane.lane], times: 1, children: [], parent: null, chosen: false };
      known.set(key, node);
      found.push(node);
    }
    return found;
  });
  const home = new Map();
  columns.forEach((nodes, at) => nodes.forEach((node) => node.numbers.forEach((lane) => home.set(`${at}.${lane}`, node))));
  const at = (place) => (place ? home.get(place.join(".")) || null : null);
  columns.flat().forEach((node) => {
    node.parent = at(trace.tries[node.at].beams[node.lane.beam]);
    if (node.parent) node.parent.children.push(node);
  });
  const answer = at(trace.answer);
  for (let node = answer; node; node = node.parent) node.chosen = true;
  return { columns, answer };
}

function whole(node) {
  return node ? before(node) + node.lane.text : "";
}

function before(node) {
  const text = whole(node.parent);
  return text.slice(0, text.length - node.lane.takes_back);
}

function fateOf(node, answer) {
  if (node === answer) {
    const how = node.lane.reward === null ? "A verified answer, drawn fairly among all" : "The best verified answer";
    return { ...FATES.answer, name: "the answer", why: `${how}: this is what was given.` };
  }
  return FATES[node.lane.fate] || { sign: "○", name: node.lane.fate, why: "" };
}

function laneTitle(node, trace, answer) {
  const many = node.times > 1 ? ` and ${count(node.times - 1, "other")} that say the same` : "";
  return `${tryName(trace.tries[node.at])}, lane ${node.lane.lane + 1}${many}: ${fateOf(node, answer).name}`;
}

function figuresOf(node, trace) {
  const { lane } = node, several = trace.costs.length > 1;
  const shown = trace.costs.flatMap((cost, at) => [
    [several ? `cost, ${cost.name}` : "cost so far", lane.costs ? `${number(lane.costs[at])} of ${number(cost.limit)}` : null],
    [several ? `z, ${cost.name}` : "budget left (z)", lane.states ? number(lane.states[at]) : null],
  ]);
  return facts([...shown,
    ["critic: safe end", lane.foresight === null ? null : percent(lane.foresight)],
    ["critic: reward", lane.value === null ? null : number(lane.value)],
    ["reward", lane.reward === null ? null : number(lane.reward)],
    ["score", lane.score === null ? null : number(lane.score)],
    ["tokens", String(lane.tokens)],
    ["ended by", lane.end === null ? null : lane.end === "stop" ? "itself" : "length"]]);
}

function inspector(node, trace, answer) {
  const unread = node.lane.costs === null && node.lane.foresight !== null && node.lane.fate !== "unread";
  return [
    h("h3", {}, h("span", { class: `sign ${node.lane.fate}${node.chosen ? " chosen" : ""}`, "aria-hidden": "true" }, fateOf(node, answer).sign),
      laneTitle(node, trace, answer)),
    h("p", {}, fateOf(node, answer).why),
    h("blockquote", {}, h("span", { class: "muted" }, before(node)), h("mark", {}, node.lane.text || "(ends here)")),
    figuresOf(node, trace),
    unread ? h("p", { class: "muted small" }, "No cost model read this lane: the critic looked ahead instead.") : null,
  ];
}
