// The head of the page, and the two answers side by side.

function least(values) {
  const real = (values || []).filter((value) => value !== null);
  return real.length ? Math.min(...real) : null;
}

function facts(pairs) {
  return h("dl", { class: "facts" },
    pairs.filter(([, value]) => value !== null).map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))));
}

function head({ result, model }) {
  const { trace, usage } = result;
  const retries = trace.tries.filter((each) => each.verdict === "again").length;
  const restarts = Math.max(0, ...trace.tries.map((each) => each.search));
  const sampled = trace.tries.reduce((sum, each) => sum + each.sampled, 0);
  return h("header", {},
    h("p", { class: "eyebrow" }, `How this was answered${model ? ` · ${model}` : ""}`),
    h("h1", {}, trace.prompt),
    trace.prefill ? h("p", { class: "muted" }, "The caller began the answer: ", h("q", {}, trace.prefill)) : null,
    facts([
      ["outcome", result.blocked ? "blocked" : "answered"],
      ["blocks", `${result.blocks.length || new Set(trace.tries.map((each) => each.block)).size}`],
      ["lanes sampled", sampled.toLocaleString("en")],
      ["retries", `${retries}${restarts ? `, ${count(restarts, "restart")}` : ""}`],
      ["tokens kept of sampled", `${usage.completion_tokens} of ${usage.candidate_tokens.toLocaleString("en")}`],
      ["judge calls", usage.judge_calls.toLocaleString("en")],
      ["seconds", number(result.seconds)],
      ["N, K, d", `${trace.candidates}, ${trace.beams}, ${trace.block_tokens}`],
      ["seed", String(result.seed)],
    ]));
}

function verdict(safe, words) {
  return h("p", { class: `verdict ${safe ? "good" : "bad"}` }, h("span", { "aria-hidden": "true" }, safe ? "✓ " : "✕ "), words);
}

function costWords(costs, lines) {
  return lines.map((line, at) => [lines.length > 1 ? `cost, ${line.name}` : "cost",
    `${number(costs[at])} of ${number(line.limit)}`]);
}

function released(result) {
  // The guarded text in the pieces in which it left, and the rest, which left when the search ended.
  const pieces = [];
  let shown = "";
  const last = Math.max(0, ...result.trace.tries.map((each) => each.search));
  for (const each of result.trace.tries) {
    if (each.search !== last || !each.release || !each.release.passed) continue;
    if (!result.text.startsWith(shown + each.release.text)) break;
    shown += each.release.text;
    pieces.push({ text: each.release.text, when: `free to leave after block ${each.block + 1}, ${number(each.seconds)}\u00a0s` });
  }
  if (shown.length < result.text.length) pieces.push({ text: result.text.slice(shown.length), when: "left with the end of the search" });
  return pieces;
}

function guardedCard(result) {
  const { trace } = result;
  const spent = trace.costs.map((line) => result.costs[line.name] ?? null);
  const pieces = result.blocked ? [] : released(result);
  return h("article", { class: "card guarded" },
    h("h3", {}, "Guarded"),
    result.blocked
      ? verdict(false, `blocked: ${result.reason}`)
      : verdict(true, `within budget, ${number(result.safety_state)} left`),
    h("blockquote", {}, result.blocked ? result.text || "(nothing)" : pieces.map((piece) =>
      h("span", { class: "piece", title: piece.when }, piece.text))),
    pieces.length > 1 ? h("details", {}, h("summary", {}, `What left when, in ${pieces.length} pieces`),
      h("ol", { class: "pieces" }, pieces.map((piece) => h("li", {}, h("span", { class: "muted" }, `${piece.when}: `), piece.text.trim())))) : null,
    facts(result.blocked ? [] : [...costWords(spent, trace.costs),
      ["reward", result.reward === null ? null : number(result.reward)],
      ["tokens", String(result.usage.completion_tokens)]]));
}

function unguardedCard(unguarded) {
  const left = least(unguarded.lines.map((line) => (line.points.length ? line.points[line.points.length - 1].state : line.limit)));
  return h("article", { class: "card" },
    h("h3", {}, "Unguarded"),
    unguarded.over_budget
      ? verdict(false, "over budget: the guard would not let it leave")
      : verdict(true, `within budget, ${number(left)} left`),
    h("blockquote", {}, unguarded.text || "(nothing)"),
    facts([...costWords(unguarded.costs, unguarded.lines),
      ["reward", unguarded.reward === null ? null : number(unguarded.reward)],
      ["tokens", String(unguarded.tokens)]]));
}

function answers({ result, unguarded }) {
  return h("section", { "aria-labelledby": "answers" },
    h("h2", { id: "answers" }, unguarded ? "The answer, unguarded and guarded" : "The answer"),
    h("div", { class: unguarded ? "pair" : "" }, unguarded ? unguardedCard(unguarded) : null, guardedCard(result)));
}
