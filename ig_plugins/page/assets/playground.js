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

function sliders(offer, holder) {
  holder.replaceChildren(...offer.sliders.map(slider));
  const [candidates, beams] = ["candidates", "beams"].map((name) => holder.querySelector(`[name=${name}]`)); // K is at most N
  const follow = (changed, other, wrong) => changed.addEventListener("input", () => {
    if (!wrong(Number(candidates.value), Number(beams.value))) return;
    other.value = changed.value;
    other.dispatchEvent(new Event("input"));
  });
  follow(candidates, beams, (n, k) => k > n);
  follow(beams, candidates, (n, k) => k > n);
}

async function ask(settings, offer, form) {
  const given = form.elements, question = { prompt: given.prompt.value, model: offer.model, beside: given.beside.checked };
  for (const { name } of offer.sliders) question[name] = Number(given[name].value);
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
  const holder = h("div", { class: "sliders" });
  const model = h("select", { onchange: () => sliders(settings.offers[model.selectedIndex], holder) },
    settings.offers.map((each) => h("option", {}, each.model)));
  const form = h("form", { class: "card", "aria-label": "Ask the guard" },
    h("label", { for: "prompt" }, "Prompt"),
    h("textarea", { id: "prompt", name: "prompt", rows: "3", required: true, maxlength: "100000" }),
    holder,
    h("div", { class: "row" },
      settings.offers.length > 1 ? h("label", { class: "inline" }, "Model ", model) : null,
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
      show(await ask(settings, settings.offers[model.selectedIndex], form), view);
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
    h("p", { class: "eyebrow" }, `InferenceGuard playground · ${settings.offers.map((each) => each.model).join(", ")}`), h("h1", {}, "Ask, and see how it is answered"), form));
  sliders(settings.offers[0], holder);
  form.elements.prompt.focus();
}

playground(JSON.parse(document.getElementById("playground").textContent));
