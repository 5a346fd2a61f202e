// Draws the charts on the reader's paper, light or dark, and gives those with frames a slider that the keyboard reaches.
"use strict";
(() => {
  const charts = JSON.parse(document.getElementById("charts").textContent);
  const templates = JSON.parse(document.getElementById("templates").textContent);
  const root = document.documentElement;
  const button = document.getElementById("paper");
  const settings = { responsive: true, displayModeBar: false };
  const element = (i) => document.getElementById(`chart-${i}`);
  const layout = (chart) => ({ ...chart.layout, template: templates[root.dataset.paper], autosize: true });

  function addSlider(chart, place) {
    const last = chart.frames.length - 1;
    const row = document.createElement("label");
    row.className = "slider";
    row.innerHTML = `<span>step</span><input type="range" min="0" max="${last}" value="${last}"><output></output>`;
    const [input, output] = [row.querySelector("input"), row.querySelector("output")];
    const show = () => {
      const frame = chart.frames[Number(input.value)];
      output.textContent = frame.name;
      input.setAttribute("aria-valuetext", `step ${frame.name}`);
      chart.data = chart.data.map((trace, i) => ({ ...trace, ...frame.data[i] }));
      return Plotly.react(place, chart.data, layout(chart), settings);
    };
    input.addEventListener("input", show);
    output.textContent = chart.frames[last].name;
    place.after(row);
  }

  async function drawAll() {
    for (const [i, chart] of charts.entries()) {
      await Plotly.react(element(i), chart.data, layout(chart), settings);
      await new Promise((done) => setTimeout(done));  // the page stays alive while a hundred charts are drawn
    }
    root.dataset.drawn = String(charts.length);
  }

  function setPaper(paper) {
    root.dataset.paper = paper;
    button.textContent = paper === "dark" ? "Light paper" : "Dark paper";
    return drawAll();
  }

  const prefers = matchMedia("(prefers-color-scheme: dark)");
  button.addEventListener("click", () => setPaper(root.dataset.paper === "dark" ? "light" : "dark"));
  prefers.addEventListener("change", (event) => setPaper(event.matches ? "dark" : "light"));
  charts.forEach((chart, i) => chart.frames?.length > 1 && addSlider(chart, element(i)));
  setPaper(prefers.matches ? "dark" : "light");
})();
