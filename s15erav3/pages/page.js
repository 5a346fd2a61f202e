// Draws the charts on the reader's paper, light or dark, for wide screens and narrow ones. Sliders over frames and
// selects among figures are the browser's own, which the keyboard reaches. A chart that is folded away has no size, and
// is drawn when the reader opens it.
"use strict";
(() => {
  const { places, shared } = JSON.parse(document.getElementById("charts").textContent);
  const templates = JSON.parse(document.getElementById("templates").textContent);
  const inks = JSON.parse(document.getElementById("inks").textContent);
  const root = document.documentElement;
  const button = document.getElementById("paper");
  const TITLE = 50;  // pixels that a figure leaves for its title, which is a heading here
  const settings = { responsive: true, displayModeBar: false };
  const narrow = () => innerWidth < 600;
  const fingers = matchMedia("(pointer: coarse)").matches;

  // What is drawn in a place: which of its figures, and which frame of that (null: as the figure stands).
  const states = places.map((figures, i) => ({ figures, chosen: 0, frame: null, element: document.getElementById(`chart-${i}`) }));

  // A page's own script may change each trace before it is drawn.
  const page = { states, paint: (trace) => trace, redraw: drawAll };
  window.page = page;

  // Colours that have another shade on dark paper, in markers, lines and bars.
  function inked(part) {
    if (Array.isArray(part)) return part.map(inked);
    if (part !== null && typeof part === "object") return Object.fromEntries(Object.entries(part).map(([k, v]) => [k, inked(v)]));
    return inks[part] ?? part;
  }

  function onPaper(trace) {
    if (root.dataset.paper !== "dark") return trace;
    const found = { ...trace };
    for (const key of ["marker", "line", "error_x", "error_y"]) if (found[key]) found[key] = inked(found[key]);
    return found;
  }

  function traces({ figures, chosen, frame }) {
    const figure = figures[chosen];
    return figure.data.map((trace, i) => {
      const whole = { ...trace, ...(frame === null ? {} : figure.frames[frame].data[i]) };
      for (const [key, value] of Object.entries(whole)) if (value?.shared !== undefined) whole[key] = shared[value.shared];
      return onPaper(page.paint(whole));
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
  const isFolded = (element) => element.parentElement.closest("details:not([open])") !== null;

  let queue = Promise.resolve();  // one drawing after the other
  let waiting = 0;
  function enqueue(work) {
    waiting++;
    delete root.dataset.drawn;
    queue = queue.then(work, work).finally(() => {
      waiting--;
      if (!waiting) root.dataset.drawn = String(states.length);
    });
  }

  let turn = 0;
  function drawAll() {
    const mine = ++turn;
    enqueue(async () => {
      for (const state of states) {
        if (mine !== turn) return;  // a later call draws all of them anew
        if (isFolded(state.element)) continue;
        await draw(state);
        await new Promise((done) => setTimeout(done));  // the page stays alive while all charts are drawn
      }
    });
  }

  // Those that were folded away, as if for the first time: paper and width may have changed meanwhile.
  function drawWithin(details) {
    enqueue(async () => {
      for (const state of states.filter(({ element }) => details.contains(element) && !isFolded(element))) {
        Plotly.purge(state.element);
        await draw(state);
      }
    });
  }

  function unfold(id) {
    const details = id && document.getElementById(id)?.querySelector(":scope > details");
    if (details) details.open = true;
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
    button.textContent = paper === "dark" ? "Light mode" : "Dark mode";
    drawAll();
  }

  const prefers = matchMedia("(prefers-color-scheme: dark)");
  button.addEventListener("click", () => setPaper(root.dataset.paper === "dark" ? "light" : "dark"));
  prefers.addEventListener("change", (event) => setPaper(event.matches ? "dark" : "light"));
  matchMedia("(max-width: 599px)").addEventListener("change", drawAll);
  states.forEach((state) => state.figures[0].frames?.length > 1 && addSlider(state));
  document.querySelectorAll("figure:has(.choice)").forEach(addChoice);
  document.querySelectorAll("details").forEach((details) => {
    details.addEventListener("toggle", () => details.open && details.querySelector(".chart") && drawWithin(details));
  });
  document.querySelectorAll("nav a").forEach((link) => link.addEventListener("click", () => unfold(link.hash.slice(1))));
  unfold(location.hash.slice(1));
  setPaper(prefers.matches ? "dark" : "light");
})();
