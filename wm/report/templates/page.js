"use strict";
(() => {
  const darkColors = JSON.parse(document.getElementById("dark-colors").textContent);
  const darkMode = matchMedia("(prefers-color-scheme: dark)");
  const charts = [...document.querySelectorAll(".chart")];
  let isPrinting = false;

  function draw(chart) {
    if (!chart.clientWidth) return; // within a closed <details>
    let text = document.getElementById(`${chart.id}-figure`).textContent;
    if (darkMode.matches && !isPrinting) text = text.replace(/#[0-9a-f]{6}/g, (color) => darkColors[color] ?? color);
    const figure = JSON.parse(text);
    Plotly.react(chart, figure.data, { ...figure.layout, width: chart.clientWidth }, { displayModeBar: false });
  }

  function setPrinting(value) {
    isPrinting = value;
    document.documentElement.classList.toggle("printing", value); // the width of a sheet of paper
    charts.forEach(draw);
  }

  const observer = new ResizeObserver((entries) => entries.forEach((entry) => draw(entry.target)));
  charts.forEach((chart) => observer.observe(chart));
  darkMode.addEventListener("change", () => charts.forEach(draw));
  addEventListener("beforeprint", () => setPrinting(true));
  addEventListener("afterprint", () => setPrinting(false));
})();
