// Draws the charts on the reader's paper, light or dark, for wide screens and narrow ones. Sliders over frames and
// selects among figures are the browser's own, which the keyboard reaches.
"use strict";
(() => {
  const { places, shared } = JSON.parse(document.getElementById("charts").textContent);
  const templates = JSON.parse(document.getElementById("templates").textContent);
  const root = document.documentElement;
  const button = document.getElementById("paper");
  const TITLE = 50;  // pixels that a figure leaves for its title, which is a heading here
  const settings = { responsive: true, displayModeBar: false };
  const narrow = () => innerWidth < 600;
  const fingers = matchMedia("(pointer: coarse)").matches;

  // What is drawn in a place: which of its figures, and which frame of that (null: as the figure stands).
  const states = places.map((figures, i) => ({ figures, chosen: 0, frame: null, element: document.getElementById(`chart-${i}`) }));

  function traces({ figures, chosen, frame }) {
    const figure = figures[chosen];
    return figure.data.map((trace, i) => {
      const whole = { ...trace, ...(frame === null ? {} : figure.frames[frame].data[i]) };
      for (const [key, value] of Object.entries(whole)) if (value?.shared !== undefined) whole[key] = shared[value.shared];
      return whole;
    });
  }

  function layout({ figures, chosen }) {
    const own = figures[chosen].layout;
    const margin = narrow() ? { l: 36, r: 4, t: 8, b: 36 } : { l: 56, r: 12, t: 8, b: 44 };
    const height = own.height && own.height - TITLE;
    const found = { ...own, height, template: templates[root.dataset.paper], margin, autosize: true };
    if (narrow()) found.font = { size: 11 };
    if (narrow() || fingers) found.dragmode = false;  // a finger on a chart scrolls the page
    return found;
  }

  const draw = (state) => Plotly.react(state.element, traces(state), layout(state), settings);

  let turn = 0;
  async function drawAll() {
    const mine = ++turn;
    delete root.dataset.drawn;
    for (const state of states) {
      await draw(state);
      await new Promise((done) => setTimeout(done));  // the page stays alive while all charts are drawn
      if (mine !== turn) return;  // a later call draws all of them anew
    }
    root.dataset.drawn = String(states.length);
  }

  function addSlider(state) {
    const frames = state.figures[0].frames;
    const row = document.createElement("label");
    row.className = "slider";
    row.innerHTML = '<span>step</span><input type="range" min="0"><output></output>';
    const [input, output] = [row.querySelector("input"), row.querySelector("output")];
    input.max = input.value = frames.length - 1;
    const tell = () => {
      const name = Number(frames[Number(input.value)].name).toLocaleString("en");
      output.textContent = name;
      input.setAttribute("aria-valuetext", `step ${name}`);
    };
    input.addEventListener("input", () => {
      state.frame = Number(input.value);
      tell();
      draw(state);
    });
    tell();
    state.element.before(row);
  }

  function addChoice(figure) {
    const selects = [...figure.querySelectorAll(".choice select")];
    const texts = [...figure.querySelectorAll(".text")];
    const state = states.find(({ element }) => figure.contains(element));
    const choose = () => {
      const chosen = selects.reduce((number, select) => number * select.options.length + select.selectedIndex, 0);
      texts.forEach((text, i) => { text.hidden = i !== chosen; });
      if (state) {
        state.chosen = chosen;
        draw(state);
      }
    };
    selects.forEach((select) => {
      select.selectedIndex = 0;  // browsers remember choices over a reload
      select.addEventListener("change", choose);
    });
  }

  function setPaper(paper) {
    root.dataset.paper = paper;
    button.textContent = paper === "dark" ? "Light paper" : "Dark paper";
    return drawAll();
  }

  const prefers = matchMedia("(prefers-color-scheme: dark)");
  button.addEventListener("click", () => setPaper(root.dataset.paper === "dark" ? "light" : "dark"));
  prefers.addEventListener("change", (event) => setPaper(event.matches ? "dark" : "light"));
  matchMedia("(max-width: 599px)").addEventListener("change", drawAll);
  states.forEach((state) => state.figures[0].frames?.length > 1 && addSlider(state));
  document.querySelectorAll("figure:has(.choice)").forEach(addChoice);
  setPaper(prefers.matches ? "dark" : "light");
})();
