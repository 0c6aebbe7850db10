// What the names in a trace mean, in words and signs.

const FATES = {
  beam: { sign: "●", name: "went on", why: "One of the best safe continuations: it became a beam of the next block." },
  answer: { sign: "◆", name: "verified answer", why: "It ended, and the cost models passed exactly this text." },
  over_budget: { sign: "✕", name: "over budget", why: "A cost model says that it spends more than the budget holds." },
  part_refused: {
    sign: "✕", name: "part refused",
    why: "As a whole it passed, but a text that its tool call hands out alone did not.",
  },
  doubtful: {
    sign: "?", name: "doubtful",
    why: "The critic did not foresee a safe end for it, or was not sure enough for a block with few lanes.",
  },
  unread: {
    sign: "·", name: "not read",
    why: "It ended, but answers that the critic thought better of had passed; no cost model was asked about it.",
  },
  repeat: { sign: "=", name: "repeat", why: "It says what another lane of the same beam says." },
  outranked: { sign: "○", name: "outranked", why: "Safe, but other lanes, or a finished answer, were worth more." },
  not_drawn: { sign: "○", name: "not drawn", why: "Safe, but the fair draw among safe lanes took others." },
  given_up: {
    sign: "○", name: "given up",
    why: "Safe, but it left the best beam's path so long ago that waiting for it would hold back the text.",
  },
};

const VERDICTS = {
  done: "",
  again: "No lane was safe: the block was sampled again, with the failed tokens made less likely.",
  wider: "Few lanes were not enough for the critic to be sure: the block was searched in full.",
  dead_end: "No lane was safe in the last try: this search ended without an answer.",
};

const READINGS = { any_time: "at every checked point", terminal: "at the end" };
const ACCOUNTS = { cumulative: "costs add up", worst: "the worst score counts" };

function tryName(each) {
  const again = each.search ? `Restart ${each.search}, block` : "Block";
  const more = each.attempt ? `, try ${each.attempt + 1}` : each.narrow ? ", few lanes" : "";
  return `${again} ${each.block + 1}${more}`;
}
