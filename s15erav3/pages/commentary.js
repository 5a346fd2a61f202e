// Colours each token by one of its experts, tells why it was chosen, and shows the tokens of one expert alone.
"use strict";
document.querySelectorAll(".coloured").forEach((root, number) => {
  const data = JSON.parse(root.querySelector("script").textContent);
  const { experts: nobody, width, texts } = data;
  const decode = (text, Kind) => new Kind(Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer);
  const [chosen, alone] = [data.chosen, data.alone].map((text) => decode(text, nobody < 256 ? Uint8Array : Uint16Array));
  const [scores, weights] = [data.scores, data.weights].map((text, which) => {
    return Float32Array.from(decode(text, Uint16Array), (share) => (share / 65535) * data.greatest[which]);
  });
  const biased = data.biases.flat().some((bias) => bias !== 0);
  const [layers, choices, numbers, strength] = root.querySelectorAll("select, input");
  const [legend, told, passages, tip] = [".experts", ".told", ".passages", ".tip"].map((name) => root.querySelector(name));
  let picked = null;  // the expert whose tokens are shown alone
  let current = null;  // the token whose details are shown

  const make = (name, parent, text = "", type = "") => {
    const element = parent.appendChild(document.createElement(name));
    element.textContent = text;
    element.className = type;
    return element;
  };
  const label = (expert) => `E${String(expert).padStart(2, "0")}`;
  const count = (n) => n.toLocaleString("en");
  const ordinal = (n) => n + (/(^|[^1])[123]$/.test(n) ? ["st", "nd", "rd"][(n % 10) - 1] : "th");
  const visible = (text) => text.replaceAll("\n", "↵").replaceAll("\r", "␍").replaceAll("\t", "⇥");
  const paint = (element, expert) => element.style.setProperty("--c", data.colours[expert] ?? "");
  const slot = (token, layer = layers.selectedIndex) => (layer * texts.length + token) * width;
  const listed = (ids, token) => Array.from(ids.subarray(slot(token), slot(token) + width)).filter((id) => id < nobody);

  data.layers.forEach((layer) => make("option", layers, layer));
  for (let k = 1; k <= width; k++) make("option", choices, ordinal(k));
  tip.id = `coloured-tip-${number}`;
  const buttons = data.colours.map((colour, expert) => {
    const button = make("button", legend);
    button.type = "button";
    button.append(label(expert), make("span", button));
    button.append(button.firstElementChild);
    paint(button, expert);
    button.addEventListener("click", () => pick(expert));
    return button;
  });
  const tokens = [];
  data.lengths.forEach((length, passage) => {
    const place = make("article", passages);
    make("h3", place, data.titles[passage]);
    const box = make("div", place);
    box.setAttribute("role", "group");
    box.setAttribute("aria-label", `${data.titles[passage]}: ${length} tokens, arrow keys go through them`);
    let word = null;
    for (let last = tokens.length + length - 1; tokens.length <= last;) {
      const text = texts[tokens.length];
      if (word === null || /^\s/.test(text)) word = make("span", box, "", "word");
      const token = make("span", word, visible(text) || "·", "token");
      token.classList.toggle("mark", !text.trim());
      token.tabIndex = box.querySelectorAll(".token").length === 1 ? 0 : -1;
      token.setAttribute("role", "button");
      token.setAttribute("aria-describedby", tip.id);
      if (text.includes("\n") && tokens.length < last) word = make("br", box) && null;
      tokens.push(token);
    }
  });

  function show() {
    const loads = new Array(nobody + 1).fill(0);
    let moved = 0;
    tokens.forEach((token, i) => {
      const [own, others] = [listed(chosen, i), listed(alone, i)];
      moved += own.filter((expert) => !others.includes(expert)).length;
      own.forEach((expert) => loads[expert]++);
      const k = picked === null ? choices.selectedIndex : own.indexOf(picked);
      const [expert, dim] = [own[k], k < 0];
      token.dataset.expert = expert ?? (dim ? "" : "–");
      paint(token, expert);
      const share = weights[slot(i) + k] / data.greatest[1];
      token.style.setProperty("--w", strength.checked && expert !== undefined ? (0.15 + 0.85 * share).toFixed(3) : 1);
      token.classList.toggle("dim", dim);
      token.classList.toggle("moved", expert !== undefined && !others.includes(expert));
    });
    const all = loads.reduce((a, b) => a + b);
    const most = Math.max(...loads);
    buttons.forEach((button, expert) => {
      const share = (loads[expert] * nobody) / all;
      button.lastElementChild.textContent = share.toFixed(2);
      button.style.setProperty("--load", `${(100 * loads[expert]) / most}%`);
      button.setAttribute("aria-label", `${label(expert)}: ${count(loads[expert])} tokens, ${share.toFixed(2)} of its fair share`);
      button.setAttribute("aria-pressed", picked === expert);
    });
    told.textContent = picked === null ? general(moved / all) : special(loads[picked], all);
    if (current) describe(current);
  }

  function general(share) {
    const text = `Layer ${layers.value}, ${choices.value} choice of ${count(tokens.length)} tokens. Beside each expert: its load over all choices; 1.00 is its fair share.`;
    return biased ? `${text} Of all choices of this layer, ${Math.round(100 * share)} % are there by the bias.` : text;
  }

  function special(load, all) {
    const of = (part) => tokens.filter((_, i) => data.part[i] === part);
    const rows = data.parts.map((name, part) => {
      const taken = of(part).filter((token) => !token.classList.contains("dim")).length;
      return { name, taken, times: (taken / of(part).length) * (tokens.length / load) };
    });
    const strong = rows.filter((row) => row.taken >= 5 && row.times >= 1.2).sort((a, b) => b.times - a.times).slice(0, 3);
    const above = strong.map((row) => `${row.name} ${row.times.toFixed(1)} times (${count(row.taken)} tokens)`).join(", ");
    const share = ((load * nobody) / all).toFixed(2);
    return `${label(picked)} in layer ${layers.value} handles ${count(load)} of ${count(tokens.length)} tokens, ${share} of its fair share`
      + (above ? `; more than its average of: ${above}.` : ".");
  }

  function describe(token) {
    const i = tokens.indexOf(token);
    tip.replaceChildren();
    const head = make("p", tip);
    make("code", head, visible(texts[i]).replaceAll(" ", "␣") || "·");
    if (data.bytes[i]) head.append(` bytes ${data.bytes[i]}`);
    if (data.parts.length) head.append(` part: ${data.parts[data.part[i]]}`);
    const [own, others] = [listed(chosen, i), listed(alone, i)];
    if (own.length) {
      const table = make("table", tip);
      const row = make("tr", table);
      ["", "expert", "s", ...(biased ? ["s + b"] : []), "weight"].forEach((name) => make("th", row, name).setAttribute("scope", "col"));
      own.forEach((expert, k) => {
        const [line, star] = [make("tr", table), others.includes(expert) ? "" : " *"];
        make("td", line, ordinal(k + 1));
        const swatch = document.createElement("span");
        swatch.className = "swatch";
        paint(swatch, expert);
        make("td", line, label(expert) + star).prepend(swatch);
        const s = scores[slot(i) + k];
        const values = [s, ...(biased ? [s + data.biases[layers.selectedIndex][expert]] : []), weights[slot(i) + k]];
        values.forEach((value) => make("td", line, value.toFixed(3), "number"));
        line.classList.toggle("current", picked === null ? k === choices.selectedIndex : expert === picked);
      });
    } else make("p", tip, "No expert chose this token.");
    const missed = others.filter((expert) => !own.includes(expert));
    if (missed.length) make("p", tip, `* by the bias; without it: ${missed.map(label).join(", ")}`);
    current?.classList.remove("shown");
    current = token;
    token.classList.add("shown");
    tip.classList.toggle("pinned", token === document.activeElement);
    put();
  }

  function put() {
    const [at, page] = [current.getBoundingClientRect(), document.documentElement];
    tip.hidden = at.bottom < 0 || at.top > page.clientHeight;
    const own = tip.getBoundingClientRect();
    const below = at.bottom + 6 + own.height < page.clientHeight;
    tip.style.left = `${Math.max(8, Math.min(at.left, page.clientWidth - own.width - 8))}px`;
    tip.style.top = `${Math.max(8, below ? at.bottom + 6 : at.top - own.height - 6)}px`;
  }

  function hide() {
    current?.classList.remove("shown");
    current = null;
    tip.hidden = true;
  }

  function pick(expert) {
    picked = picked === expert ? null : expert;
    show();
  }

  function key(event) {
    const token = event.target.closest(".token");
    const row = [...token.closest("[role=group]").querySelectorAll(".token")];
    const i = row.indexOf(token);
    const next = { ArrowLeft: row[i - 1], ArrowRight: row[i + 1], Home: row[0], End: row.at(-1) }[event.key];
    if (event.key === "Enter" || event.key === " ") {
      const expert = listed(chosen, tokens.indexOf(token))[choices.selectedIndex];
      if (picked !== null || expert !== undefined) pick(picked ?? expert);
    } else if (next) next.focus();
    else return;
    event.preventDefault();
  }

  const under = (event) => event.target.closest?.(".token");
  passages.addEventListener("pointerover", (event) => under(event) && describe(under(event)));
  passages.addEventListener("pointerout", (event) => {
    const focused = document.activeElement.closest(".token");
    if (!under(event)) return;
    if (root.contains(focused)) describe(focused);
    else hide();
  });
  passages.addEventListener("focusin", (event) => {
    event.target.closest("[role=group]").querySelector("[tabindex='0']").tabIndex = -1;
    event.target.tabIndex = 0;
    describe(event.target);
  });
  passages.addEventListener("focusout", hide);
  passages.addEventListener("keydown", (event) => under(event) && key(event));
  root.addEventListener("keydown", (event) => event.key === "Escape" && (current ? hide() : picked !== null && pick(picked)));
  addEventListener("scroll", () => current && put(), { passive: true });
  for (const control of [layers, choices, numbers, strength]) control.addEventListener("change", () => {
    passages.classList.toggle("numbers", numbers.checked);
    if (control === choices) picked = null;
    show();
  });
  passages.classList.toggle("numbers", numbers.checked);
  show();
});
