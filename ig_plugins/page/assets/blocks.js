// Every try and its lanes as text, for reading and for whoever does without the map.

function laneItem(node, trace, answer) {
  const { lane } = node, cost = least(lane.states);
  const small = [
    lane.states ? `z ${number(cost)}` : null,
    lane.foresight === null ? null : `safe end ${percent(lane.foresight)}`,
    lane.reward === null ? null : `reward ${number(lane.reward)}`,
    node.times > 1 ? `×${node.times}` : null,
  ].filter((each) => each !== null);
  const fate = fateOf(node, answer);
  return h("li", { class: node.chosen ? "chosen" : "" },
    h("span", { class: `sign ${lane.fate}${node.chosen ? " chosen" : ""}`, "aria-hidden": "true" }, fate.sign),
    h("span", { class: "text" }, lane.text || "(ends here)"),
    h("span", { class: "muted small" }, [fate.name, ...small].join(" · ")));
}

function tryItem(each, at, { columns, answer }, trace) {
  const kept = each.lanes.filter((lane) => lane.fate === "beam" || lane.fate === "answer").length;
  const left = each.sampled - each.lanes.length;
  const bad = each.verdict !== "done" || (each.release && !each.release.passed);
  return h("details", { class: `try ${bad ? "failed" : ""}` },
    h("summary", {}, h("strong", {}, tryName(each)), ` ${count(each.sampled, "lane")}, ${each.safe} safe, ${kept} kept`,
      h("span", { class: "muted" }, ` · ${number(each.seconds)}\u00a0s`),
      bad ? h("span", { class: "badge" }, { again: "tried again", wider: "widened", dead_end: "dead end", done: "text refused" }[each.verdict]) : null),
    VERDICTS[each.verdict] ? h("p", {}, VERDICTS[each.verdict]) : null,
    each.release ? h("p", {}, each.release.passed ? "From here on all beams agree, and this was free to leave: " : "All beams agree on this text, and the cost models refused it: ",
      h("q", {}, each.release.text)) : null,
    h("ul", { class: "lanes" }, columns[at].map((node) => laneItem(node, trace, answer))),
    left > 0 ? h("p", { class: "muted" }, `${count(left, "lane")} more: the trace had no room for their text.`) : null);
}

function blocks(trace, drawn) {
  return h("section", { "aria-labelledby": "blocks" },
    h("h2", { id: "blocks" }, "Every lane, block by block"),
    trace.tries.map((each, at) => tryItem(each, at, drawn, trace)),
    trace.left_out ? h("p", { class: "muted" }, `${count(trace.left_out, "more try", "more tries")}: the trace had no room for them.`) : null);
}
