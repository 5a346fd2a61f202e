// Sorts the tables by their headers, and shows only the groups of runs that the reader asks for: in the table by rows, in
// the charts by traces that carry a group's number.
"use strict";
(() => {
  for (const table of document.querySelectorAll("table.sortable")) {
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
      const descending = head.getAttribute("aria-sort") === "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", descending ? "descending" : "ascending");
      const key = (row) => row.cells[column].dataset.key;
      const compare = new Intl.Collator("en", { numeric: true }).compare;
      const rows = [...table.tBodies[0].rows].sort((a, b) => {
        const [x, y] = [key(a), key(b)];
        if (x === "" || y === "") return (x === "") - (y === "");  // what is not there stays below
        const order = x !== y && !isNaN(x) && !isNaN(y) ? x - y : compare(x, y);
        return descending ? -order : order;
      });
      table.tBodies[0].append(...rows);
    }));
  }

  // One colouring for all charts that have exchangeable legends, chosen beside each of them.
  const colourings = JSON.parse(document.getElementById("colourings").textContent);
  let colouring = colourings[0];
  const coloured = (trace, kind) => {
    const colour = colouring.legend[kind][1];
    const found = { ...trace, legendgroup: `kind${kind}` };
    for (const key of ["marker", "line", "error_x", "error_y"]) if (found[key]) found[key] = { ...found[key], color: colour };
    return found;
  };
  page.paint = (trace) => {
    const { legend: entry, group } = trace.meta ?? {};
    if (entry !== undefined) {
      const visible = colouring.legend.length > 1 && entry < colouring.legend.length;
      return visible ? { ...coloured(trace, entry), name: colouring.legend[entry][0], visible } : { ...trace, visible };
    }
    return group !== undefined && trace.legendgroup ? coloured(trace, colouring.kinds[group]) : trace;
  };
  const choosers = [];
  if (colourings.length > 1) page.states.forEach(({ figures, element }) => {
    if (!figures[0].data.some((trace) => trace.meta?.legend !== undefined)) return;
    const place = element.parentElement.querySelector(".choice") ?? document.createElement("div");
    place.className = "choice";
    if (!place.parentElement) element.before(place);
    const label = place.appendChild(document.createElement("label"));
    const select = document.createElement("select");
    select.className = "colour-by";
    label.append("Colour by ", select);
    colourings.forEach(({ name }) => select.add(new Option(name)));
    choosers.push(select);
    select.addEventListener("change", () => {
      colouring = colourings[select.selectedIndex];
      choosers.forEach((other) => { other.selectedIndex = select.selectedIndex; });
      page.redraw();
    });
  });

  const filter = document.querySelector(".filter");
  if (!filter) return;
  const groups = JSON.parse(filter.querySelector("script").textContent);
  const selects = [...filter.querySelectorAll("select")];
  const output = filter.querySelector("output");
  filter.open = innerWidth >= 600;
  let shown = new Set(groups.keys());

  // Called after every drawing, as a chart that is drawn anew shows all of its traces.
  function apply(chart) {
    const wanted = [], places = [];
    chart.data.forEach((trace, i) => {
      if (trace.meta?.group === undefined) return;
      const hidden = !shown.has(trace.meta.group);
      if (hidden !== (trace.visible === false)) {  // what a click on the legend has hidden is "legendonly"
        wanted.push(!hidden);
        places.push(i);
      }
    });
    if (places.length) Plotly.restyle(chart, { visible: wanted }, places);
  }

  const charts = () => [...document.querySelectorAll(".chart")].filter((chart) => chart.data);
  function choose() {
    shown = new Set([...groups.keys()].filter((i) => selects.every((s) => !s.value || groups[i][s.name] === s.value)));
    document.querySelectorAll("tr[data-group]").forEach((row) => { row.hidden = !shown.has(Number(row.dataset.group)); });
    output.textContent = shown.size === groups.length ? "" : `${shown.size} of ${groups.length} groups`;
    charts().forEach(apply);
  }

  selects.forEach((select) => {
    select.selectedIndex = 0;  // browsers remember choices over a reload
    select.addEventListener("change", choose);
  });
  const watched = new WeakSet();
  new MutationObserver(() => charts().forEach((chart) => {
    if (!watched.has(chart)) chart.on("plotly_afterplot", () => apply(chart));
    watched.add(chart);
    apply(chart);
  })).observe(document.documentElement, { attributeFilter: ["data-drawn"] });
})();
