"use strict";

// Elements, always with text content and never with markup: what a model says cannot become part of the page.

const SVG = "http://www.w3.org/2000/svg";

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

function h(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

function s(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

function number(value, digits = 2) {
  if (value === null || value === undefined) return "–";
  const fine = value !== 0 && Math.abs(value) < 0.1 ? 3 : digits;
  return value.toFixed(fine).replace("-", "−");
}

function percent(value) {
  if (value === null || value === undefined) return "–";
  const shown = 100 * value;
  return `${shown > 99.9 && shown < 100 ? "> 99.9" : shown < 0.1 && shown > 0 ? "< 0.1" : shown.toFixed(1)} %`;
}

function count(many, one, several = `${one}s`) {
  return `${many.toLocaleString("en")} ${many === 1 ? one : several}`;
}

function table(head, rows, caption) {
  const cells = (tag, line) => line.map((cell, at) => h(at === 0 ? "th" : tag, at === 0 ? { scope: "row" } : {}, cell));
  return h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": caption },
    h("table", {}, h("caption", { class: "hidden" }, caption),
      h("thead", {}, h("tr", {}, head.map((cell) => h("th", { scope: "col" }, cell)))),
      h("tbody", {}, rows.map((line) => h("tr", {}, cells("td", line))))));
}
