// Shows the samples of the step that the slider stands at, or those of all steps.
"use strict";
document.querySelectorAll(".samples").forEach((root) => {
  const [slider, all] = root.querySelectorAll("input");
  if (!slider) return;  // there is but one step
  const parts = [...root.querySelectorAll(".at")];
  const show = () => {
    const at = Number(slider.value);
    const step = Number(parts[at].dataset.step).toLocaleString("en");
    parts.forEach((part, i) => { part.hidden = !all.checked && i !== at; });
    slider.disabled = all.checked;
    slider.setAttribute("aria-valuetext", `step ${step}`);
    root.querySelector("output").textContent = all.checked ? "" : step;
  };
  slider.value = parts.length - 1;  // browsers remember it over a reload
  all.checked = false;
  slider.addEventListener("input", show);
  all.addEventListener("change", show);
  show();
});
