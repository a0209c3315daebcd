"use strict";
const data = JSON.parse(document.getElementById("mvnjac-data").textContent);
const FOLDED = 30;

function element(name, attributes, text) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

// --- tables: sorted by the numbers behind their cells (what is no number goes last), searched, folded, and saved as CSV ---

function cellKey(row, j) {
  const cell = row.cells[j];
  if (!cell.classList.contains("n")) return cell.textContent;
  const text = cell.dataset.v ?? cell.textContent.replaceAll("−", "-").replaceAll(",", "");
  const value = text === "" ? NaN : Number(text);
  return Number.isNaN(value) ? null : value;
}

function sortBy(table, heading, j) {
  const compare = (a, b) => (typeof a === "number" ? a - b : a.localeCompare(b, undefined, { numeric: true }));
  const descending = heading.getAttribute("aria-sort") === "ascending";
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  heading.setAttribute("aria-sort", descending ? "descending" : "ascending");
  const rows = [...table.tBodies[0].rows].map((row) => [cellKey(row, j), row]);
  rows.sort(([a], [b]) => {
    if (a === null || b === null) return (a === null) - (b === null);
    return descending ? compare(b, a) : compare(a, b);
  });
  table.tBodies[0].append(...rows.map(([, row]) => row));
}

function csvOf(key) {
  const found = key.split(".").reduce((value, name) => value[name], data);
  const columns = Array.isArray(found)
    ? Object.fromEntries(Object.keys(found[0] ?? {}).map((name) => [name, found.map((row) => row[name])]))
    : found;
  const field = (value) => {
    const text = value === null || value === undefined ? "" : String(value);
    return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  const names = Object.keys(columns);
  const rows = (columns[names[0]] ?? []).map((_, i) => names.map((name) => field(columns[name][i])).join(","));
  return [names.map(field).join(","), ...rows, ""].join("\r\n");
}

function save(name, text) {
  const address = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
  const link = element("a", { href: address, download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(address), 1000);
}

// A number with five significant digits, as the tables write it.
function digits(value) {
  if (value === null) return "–";
  const size = Math.abs(value);
  if (size >= 1000 && size < 1e6) return Math.round(value).toLocaleString("en").replace("-", "−");
  const [mantissa, exponent] = value.toExponential(4).split("e");
  const power = Number(exponent);
  const text = power < -4 || power >= 5 ? `${Number(mantissa)}e${power < 0 ? "" : "+"}${power}` : String(Number(value.toPrecision(5)));
  return text.replaceAll("-", "−");
}

// The rows of a long table that are not written in the page.
function addRows(table) {
  const { parameter, description, ...columns } = data[table.dataset.rows];
  const rows = [];
  for (let i = table.tBodies[0].rows.length; i < description.length; i++) {
    const row = element("tr", {});
    row.append(element("th", { scope: "row" }, description[i]));
    for (const values of Object.values(columns)) row.append(element("td", { class: "n" }, digits(values[i])));
    rows.push(row);
  }
  table.tBodies[0].append(...rows);
  table.parentElement.nextElementSibling.remove();
}

for (const table of document.querySelectorAll("table.sorts")) {
  if (table.dataset.rows) addRows(table);
  const rows = table.tBodies[0].rows;
  const count = rows.length;
  const bar = element("div", { class: "toolbar" });
  const search = element("input", { type: "search", placeholder: "Search", "aria-label": "Search in the table" });
  const all = element("button", { type: "button", class: "unfold" });
  const shown = element("p", { class: "soft shown" });
  let folded = count > FOLDED;
  const update = () => {
    const words = search.value.trim().toLowerCase();
    const found = [...rows].filter((row) => row.textContent.toLowerCase().includes(words));
    const visible = new Set(folded && !words ? found.slice(0, FOLDED) : found);
    for (const row of rows) row.hidden = !visible.has(row);
    all.textContent = folded ? `Show all ${count.toLocaleString("en")} rows` : `Show ${FOLDED} rows`;
    shown.textContent = visible.size < count ? `${visible.size} of ${count.toLocaleString("en")} rows.` : "";
  };
  if (count > 10) bar.append(search);
  if (count > FOLDED) bar.append(all);
  if (table.dataset.download && count) {
    const csv = element("button", { type: "button", class: "csv" }, "CSV");
    csv.addEventListener("click", () => save(`${table.id}.csv`, csvOf(table.dataset.download)));
    bar.append(csv);
  }
  search.addEventListener("input", update);
  all.addEventListener("click", () => {
    folded = !folded;
    update();
  });
  [...table.tHead.rows[0].cells].forEach((heading, j) => {
    heading.addEventListener("click", () => {
      sortBy(table, heading, j);
      update();
    });
  });
  if (bar.childElementCount) table.parentElement.before(bar);
  table.parentElement.after(shown);
  update();
}

// --- charts: values on hover, and maps of many variables on a canvas ---

const tip = element("div", { class: "tip", role: "status", hidden: "" });
document.body.append(tip);

function showTip(event, text) {
  tip.textContent = text;
  tip.hidden = false;
  const { width, height } = tip.getBoundingClientRect();
  tip.style.left = `${Math.max(4, Math.min(event.clientX + 12, document.documentElement.clientWidth - width - 4))}px`;
  tip.style.top = `${event.clientY > height + 20 ? event.clientY - height - 12 : event.clientY + 16}px`;
}

function onHover(overlay, textAt) {
  const show = (event) => {
    const box = overlay.getBoundingClientRect();
    const text = textAt((event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height);
    if (text === null) tip.hidden = true;
    else showTip(event, text);
  };
  overlay.addEventListener("pointermove", show);
  overlay.addEventListener("pointerdown", show);
  overlay.addEventListener("pointerleave", () => { tip.hidden = true; });
}

function short(value) {
  if (value === null) return "no value";
  return String(Number(value.toPrecision(3))).replace("-", "−");
}

// Each image: its size, the strength (−1 to 1) of the colour of a cell or null for none, and the text of a cell.
const images = {
  correlation: () => triangle(data.correlation, (value) => value),
  "heat-map": () => {
    const { values, scale } = data.heat_map;
    const logarithmic = scale === "logarithmic";
    const sizes = values.flat().filter((v) => v !== null && (!logarithmic || v > 0)).map((v) => Math.abs(logarithmic ? Math.log(v) : v));
    const largest = sizes.reduce((a, b) => Math.max(a, b), 0) || 1;
    return triangle(values, (value) => (logarithmic ? (value > 0 ? Math.log(value) : -largest) : value) / largest);
  },
  missing: () => {
    const { shares, first } = data.missing.timeline;
    const names = data.data.variables;
    return {
      width: first.length,
      height: names.length,
      strength: (i, j) => shares[i][j] ?? 0,
      text: (i, j) => (shares[i][j] === null ? null : `${names[i]}, from ${first[j]}: ${Math.round(1000 * shares[i][j]) / 10}% missing`),
    };
  },
};

function triangle(values, strengthOf) {
  const names = data.data.variables;
  return {
    width: values.length,
    height: values.length,
    strength: (i, j) => (j > i ? 0 : values[i][j] === null ? null : strengthOf(values[i][j])),
    text: (i, j) => (j > i ? null : `${names[i]}, ${names[j]}: ${short(values[i][j])}`),
  };
}

function paint(canvas, image) {
  const context = canvas.getContext("2d");
  const style = getComputedStyle(canvas);
  const pixels = context.createImageData(image.width, image.height);
  const colours = ["--high", "--low", "--none"].map((name) => {
    const [, ...parts] = /^#(..)(..)(..)$/.exec(style.getPropertyValue(name).trim());
    return parts.map((part) => parseInt(part, 16));
  });
  for (let i = 0; i < image.height; i++) {
    for (let j = 0; j < image.width; j++) {
      const strength = image.strength(i, j);
      const colour = strength === null ? colours[2] : colours[strength < 0 ? 1 : 0];
      const alpha = strength === null ? 255 : Math.round(255 * Math.min(Math.abs(strength), 1));
      pixels.data.set([...colour, alpha], 4 * (i * image.width + j));
    }
  }
  context.putImageData(pixels, 0, 0);
}

const canvases = [];
for (const chart of document.querySelectorAll(".chart")) {
  const overlays = chart.querySelectorAll(".overlay");
  if (chart.dataset.cells) {
    const image = images[chart.dataset.cells]();
    chart.classList.add("live");
    for (const overlay of overlays) {
      const canvas = element("canvas", { width: image.width, height: image.height });
      overlay.append(canvas);
      canvases.push([canvas, image]);
      const at = (share, size) => Math.min(size - 1, Math.max(0, Math.floor(share * size)));
      onHover(overlay, (x, y) => image.text(at(y, image.height), at(x, image.width)));
    }
  } else if (chart.dataset.hover) {
    const points = chart.dataset.hover.split("\n").map((line) => [Number(line.slice(0, line.indexOf("\t"))), line.slice(line.indexOf("\t") + 1)]);
    for (const overlay of overlays) {
      onHover(overlay, (x) => points.reduce((best, point) => (Math.abs(point[0] - x) < Math.abs(best[0] - x) ? point : best))[1]);
    }
  }
}
const paintAll = () => canvases.forEach(([canvas, image]) => paint(canvas, image));
paintAll();
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", paintAll);
