// Asks a server and shows its answers. What it is told about the server lies in the page; nothing is stored anywhere.

function slider(each) {
  const shown = h("output", { for: `set-${each.name}` }, String(each.value));
  const input = h("input", {
    type: "range", id: `set-${each.name}`, name: each.name, min: each.least, max: each.most, step: Number.isInteger(each.step) ? each.step : "any",
    value: each.value,
    oninput: () => { shown.textContent = Number.isInteger(each.step) ? input.value : number(Number(input.value)); },
  });
  if (!Number.isInteger(each.step)) shown.textContent = number(each.value);
  return h("div", { class: "slider" }, h("label", { for: `set-${each.name}` }, each.label), shown, input);
}

function bounded(form) {
  // K is at most N.
  const { candidates, beams } = form.elements;
  const follow = (changed, other, wrong) => changed.addEventListener("input", () => {
    if (!wrong(Number(candidates.value), Number(beams.value))) return;
    other.value = changed.value;
    other.dispatchEvent(new Event("input"));
  });
  follow(candidates, beams, (n, k) => k > n);
  follow(beams, candidates, (n, k) => k > n);
}

async function ask(settings, form) {
  const given = form.elements, question = { prompt: given.prompt.value, beside: given.beside.checked };
  for (const { name } of settings.sliders) question[name] = Number(given[name].value);
  if (given.seed.value !== "") question.seed = Number(given.seed.value);
  const headers = { "content-type": "application/json" };
  if (given.key && given.key.value) headers.authorization = `Bearer ${given.key.value}`;
  const response = await fetch(settings.ask, { method: "POST", headers, body: JSON.stringify(question) });
  const answer = await response.json();
  if (!response.ok) throw new Error(answer.error ? answer.error.message : `the server answered with status ${response.status}`);
  return answer;
}

function playground(settings) {
  const state = h("p", { class: "state", role: "status" });
  const button = h("button", { type: "submit" }, "Answer");
  const form = h("form", { class: "card", "aria-label": "Ask the guard" },
    h("label", { for: "prompt" }, "Prompt"),
    h("textarea", { id: "prompt", name: "prompt", rows: "3", required: true, maxlength: "100000" }),
    h("div", { class: "sliders" }, settings.sliders.map(slider)),
    h("div", { class: "row" },
      h("label", { class: "inline" }, "Seed ", h("input", { type: "number", name: "seed", min: "0", step: "1", placeholder: "drawn" })),
      h("label", { class: "inline" }, h("input", { type: "checkbox", name: "beside", checked: true }), " the unguarded answer beside it"),
      settings.keyed ? h("label", { class: "inline" }, "API key ", h("input", { type: "password", name: "key", autocomplete: "off" })) : null,
      button, state));
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const view = document.getElementById("view");
    button.disabled = true;
    state.className = "state";
    state.textContent = "Searching …";
    try {
      show(await ask(settings, form), view);
      state.textContent = "Answered, see below.";
      view.focus();
    } catch (error) {
      state.className = "state bad";
      state.textContent = error.message;
    }
    button.disabled = false;
  });
  form.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
  });
  document.getElementById("form").replaceChildren(h("header", {},
    h("p", { class: "eyebrow" }, `InferenceGuard playground · ${settings.model}`), h("h1", {}, "Ask, and see how it is answered"), form));
  bounded(form);
  form.elements.prompt.focus();
}

playground(JSON.parse(document.getElementById("playground").textContent));
