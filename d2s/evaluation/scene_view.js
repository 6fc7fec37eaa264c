// The place in 3D on a 2D canvas: points into pixels with a depth buffer, cameras as lines. No library, no GPU, no network.
"use strict";
(() => {
const root = document.getElementById("scene3d"), canvas = root.querySelector("canvas"), tip = root.querySelector(".tip"), pen = canvas.getContext("2d");
const data = JSON.parse(document.getElementById("scene-data").textContent);
if (!pen) return;
root.hidden = false;

const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
const dot = (a, b) => a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
const cross = (a, b) => [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]];
const plus = (a, b, s = 1) => [a[0] + s * b[0], a[1] + s * b[1], a[2] + s * b[2]];
const unit = (a) => { const n = Math.hypot(...a) || 1; return [a[0] / n, a[1] / n, a[2] / n]; };

// Everything is turned once so that the third axis points up; angles of the view are then plain.
const up = unit(data.up), east = unit(cross(Math.abs(up[0]) < 0.8 ? [1, 0, 0] : [0, 1, 0], up)), north = cross(up, east);
const level = (p) => [dot(p, east), dot(p, north), dot(p, up)];

const raw = new Uint16Array(bytes(data.xyz).buffer), rgb = bytes(data.rgb), count = raw.length / 3, points = new Float32Array(raw.length);
for (let i = 0; i < count; i++) points.set(level([0, 1, 2].map((k) => data.low[k] + raw[3 * i + k] / 65535 * data.size[k])), 3 * i);

// A camera [center, quaternion w x y z of world to camera] -> its centre and the four corners of its picture at distance 1, in the level frame.
function camera(c) {
  const [w, x, y, z] = c.slice(3), [a, b] = data.half, center = level(c);
  const right = level([1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)]);
  const down = level([2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)]);
  const ahead = level([2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)]);
  return { center, corners: [[-a, -b], [a, -b], [a, b], [-a, b]].map(([u, v]) => plus(plus(ahead, right, u), down, v)) };
}
const mapping = data.mapping.map(camera);
const queries = data.queries.map((q) => ({ ...q, true: camera(q.t), found: q.e && camera(q.e) }));

const centers = [...mapping, ...queries.map((q) => q.true)].map((c) => c.center);
const spread = (k, values) => { const v = values.map((c) => c[k]).sort((a, b) => a - b), n = v.length - 1; return [v[Math.floor(0.02 * n)], v[Math.ceil(0.98 * n)]]; };
const sample = [];
for (let i = 0; i < count; i += 1 + Math.floor(count / 1500)) sample.push(points.subarray(3 * i, 3 * i + 3));
const box = [0, 1, 2].map((k) => spread(k, [...sample, ...centers]));
const middle = box.map(([low, high]) => (low + high) / 2), reach = Math.hypot(...box.map(([low, high]) => high - low)) / 2 || 1;
const path = Math.hypot(...[0, 1, 2].map((k) => { const [low, high] = spread(k, centers); return high - low; })) || reach;
const body = Math.min(0.035 * reach, 0.12 * path);  // how large cameras are drawn

// At first the longer side of the place lies across, seen from half above, as near as most of it fits.
const flat = (k, l) => sample.concat(centers).reduce((sum, p) => sum + (p[k] - middle[k]) * (p[l] - middle[l]), 0);
const view = { yaw: 0.5 * Math.atan2(2 * flat(0, 1), flat(0, 0) - flat(1, 1)) + Math.PI / 2 + 0.25, pitch: 0.6, distance: 2.3 * reach, target: middle.slice() };
let start = null;
const shown = { points: true, mapping: true, queries: true, answers: true };
let axes, width, height, scale, focal, image, depth, waiting = false;

function resize() {
  scale = Math.min(2, window.devicePixelRatio || 1);
  width = Math.max(1, Math.round(canvas.clientWidth * scale)); height = Math.max(1, Math.round(canvas.clientHeight * scale));
  canvas.width = width; canvas.height = height; focal = 1.1 * Math.min(width, height);
  image = pen.createImageData(width, height); depth = new Float32Array(width * height);
  if (!start) fit();
  paint();
}

function fit() {
  for (let round = 0; round < 4; round++) {
    aim();
    const at = sample.concat(centers).map(place).filter(Boolean), over = (k, size) => at.map((p) => Math.abs(p[k] - size / 2) / (0.44 * size)).sort((a, b) => a - b);
    const [u, v] = [over(0, width), over(1, height)];
    if (u.length) view.distance *= Math.max(0.2, u[Math.floor(0.99 * (u.length - 1))], v[Math.floor(0.99 * (v.length - 1))]);
  }
  start = JSON.stringify(view);
}

function aim() {
  const [cy, sy, cp, sp] = [Math.cos(view.yaw), Math.sin(view.yaw), Math.cos(view.pitch), Math.sin(view.pitch)];
  const ahead = [-cp * cy, -cp * sy, -sp], right = [-sy, cy, 0];
  axes = { ahead, right, up: cross(right, ahead), eye: plus(view.target, ahead, -view.distance) };
}
function place(p) {
  const d = plus(p, axes.eye, -1), z = dot(d, axes.ahead);
  return z < 0.02 * view.distance ? null : [width / 2 + focal * dot(d, axes.right) / z, height / 2 - focal * dot(d, axes.up) / z, z];
}

function paintPoints() {
  const pixels = new Uint32Array(image.data.buffer), { eye, ahead, right, up: above } = axes;
  pixels.fill(0); depth.fill(Infinity);
  for (let i = 0; i < 3 * count; i += 3) {
    const x = points[i] - eye[0], y = points[i + 1] - eye[1], t = points[i + 2] - eye[2], z = x * ahead[0] + y * ahead[1] + t * ahead[2];
    if (z < 0.02 * view.distance) continue;
    const u = Math.round(width / 2 + focal * (x * right[0] + y * right[1] + t * right[2]) / z), v = Math.round(height / 2 - focal * (x * above[0] + y * above[1] + t * above[2]) / z);
    const side = Math.max(1, Math.min(6 * scale, Math.round(scale * 1.9 * Math.min(1.6, reach / view.distance + 0.55) * view.distance / z)));
    const fade = Math.max(110, Math.min(255, 255 * (1.5 - 0.42 * z / view.distance)));
    const color = (fade << 24 | rgb[i + 2] << 16 | rgb[i + 1] << 8 | rgb[i]) >>> 0;
    for (let b = Math.max(0, v); b < Math.min(height, v + side); b++) for (let a = Math.max(0, u); a < Math.min(width, u + side); a++) {
      if (z < depth[b * width + a]) { depth[b * width + a] = z; pixels[b * width + a] = color; }
    }
  }
  pen.putImageData(image, 0, 0);
}

function line(a, b) { const [p, q] = [place(a), place(b)]; if (p && q) { pen.moveTo(p[0], p[1]); pen.lineTo(q[0], q[1]); } }
function outline({ center, corners }, size) {
  const ends = corners.map((c) => plus(center, c, size));
  ends.forEach((end, k) => { line(center, end); line(end, ends[(k + 1) % 4]); });
}
function strokes(color, thickness, draw) {
  pen.beginPath(); pen.strokeStyle = color; pen.lineWidth = thickness * scale; draw(); pen.stroke();
}
function cross2d(p, r) { pen.moveTo(p[0] - r, p[1] - r); pen.lineTo(p[0] + r, p[1] + r); pen.moveTo(p[0] - r, p[1] + r); pen.lineTo(p[0] + r, p[1] - r); }

function paint() {
  waiting = false;
  aim();
  if (shown.points) paintPoints(); else pen.clearRect(0, 0, width, height);
  const style = getComputedStyle(root);
  if (shown.mapping) strokes(style.getPropertyValue("--mapping"), 0.8, () => mapping.forEach((c) => outline(c, 0.6 * body)));
  data.colors.forEach((color, grade) => {
    const some = queries.filter((q) => q.g === grade);
    if (shown.queries) strokes(color, 1.4, () => some.forEach((q) => outline(q.true, body)));
    if (shown.answers) strokes(color, 1.1, () => some.forEach((q) => { if (q.found) { line(q.true.center, q.found.center); if (grade) outline(q.found, 0.7 * body); } }));
    for (const q of some) {
      q.at = place(q.true.center);
      if (!q.at || !shown.queries) continue;
      if (!q.found) strokes(color, 2, () => cross2d(q.at, 5 * scale));
      else { pen.beginPath(); pen.fillStyle = color; pen.arc(q.at[0], q.at[1], 2.6 * scale, 0, 7); pen.fill(); }
    }
  });
  ruler(style.getPropertyValue("--ink"));
}

function ruler(color) {
  const length = view.distance * 0.22 * width / focal, power = 10 ** Math.floor(Math.log10(length)), nice = [1, 2, 5].map((s) => s * power).filter((s) => s <= length).pop();
  const size = focal * nice / view.distance, [x, y] = [12 * scale, height - 12 * scale];
  strokes(color, 1.4, () => { pen.moveTo(x, y - 4 * scale); pen.lineTo(x, y); pen.lineTo(x + size, y); pen.lineTo(x + size, y - 4 * scale); });
  pen.fillStyle = color; pen.font = 12 * scale + "px system-ui, sans-serif"; pen.fillText(+nice.toPrecision(2) + " " + data.unit, x + size + 6 * scale, y);
}
function later() { if (!waiting) { waiting = true; requestAnimationFrame(paint); } }

function turn(dx, dy) { view.yaw -= dx * 0.008; view.pitch = Math.max(-1.57, Math.min(1.57, view.pitch + dy * 0.008)); later(); }
function move(dx, dy) {
  const step = view.distance * scale / focal;
  view.target = plus(plus(view.target, axes.right, -dx * step), axes.up, dy * step); later();
}
function zoom(factor) { view.distance = Math.max(0.02 * reach, Math.min(20 * reach, view.distance * factor)); later(); }

function point(x, y) {
  let best = null, near = 14;
  for (const q of queries) if (q.at && shown.queries) {
    const away = Math.hypot(q.at[0] / scale - x, q.at[1] / scale - y);
    if (away < near) { near = away; best = q; }
  }
  tip.hidden = !best;
  if (!best) return;
  tip.textContent = best.n + ": " + best.s;
  tip.style.left = Math.max(0, Math.min(x + 12, canvas.clientWidth - tip.offsetWidth)) + "px"; tip.style.top = Math.max(0, y - 36) + "px";
}

const fingers = new Map();
canvas.addEventListener("pointerdown", (e) => { canvas.setPointerCapture(e.pointerId); fingers.set(e.pointerId, [e.offsetX, e.offsetY]); point(e.offsetX, e.offsetY); });
for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, (e) => fingers.delete(e.pointerId));
canvas.addEventListener("pointermove", (e) => {
  const last = fingers.get(e.pointerId), now = [e.offsetX, e.offsetY];
  if (!last) return point(...now);
  const [dx, dy] = [now[0] - last[0], now[1] - last[1]];
  if (fingers.size === 2) {
    const other = [...fingers].find(([id]) => id !== e.pointerId)[1], size = (p) => Math.hypot(p[0] - other[0], p[1] - other[1]) || 1;
    zoom(size(last) / size(now)); move(dx / 2, dy / 2);
  } else if (e.shiftKey || e.buttons === 2) move(dx, dy); else turn(dx, dy);
  fingers.set(e.pointerId, now);
});
canvas.addEventListener("pointerleave", () => { tip.hidden = true; });
canvas.addEventListener("contextmenu", (e) => e.preventDefault());
canvas.addEventListener("wheel", (e) => { e.preventDefault(); zoom(Math.exp(Math.max(-60, Math.min(60, e.deltaY)) * 0.003)); }, { passive: false });
const KEYS = { ArrowLeft: [-12, 0], ArrowRight: [12, 0], ArrowUp: [0, -12], ArrowDown: [0, 12] };
canvas.addEventListener("keydown", (e) => {
  if (KEYS[e.key]) (e.shiftKey ? move : turn)(...KEYS[e.key]);
  else if (e.key === "+" || e.key === "=") zoom(0.85); else if (e.key === "-") zoom(1 / 0.85); else return;
  e.preventDefault();
});

// The legend switches what it explains.
const keys = root.querySelector(".keys");
function key(text, mark, name) {
  const label = document.createElement("label"), box = document.createElement("input"), sign = document.createElement("i");
  box.type = "checkbox"; box.checked = true;
  box.addEventListener("change", () => { shown[name] = box.checked; later(); });
  sign.className = "dot"; sign.style.background = mark;
  label.append(box, sign, text); keys.append(label);
}
function button(text, act) {
  const made = document.createElement("button");
  made.type = "button"; made.textContent = text; made.addEventListener("click", () => { act(); later(); }); keys.append(made);
}
key("points", "var(--soft)", "points"); key("mapping cameras", "var(--mapping)", "mapping"); key("queries", data.colors[0], "queries"); key("answers", data.colors[0], "answers");
button("From above", () => { view.pitch = 1.57; }); button("From the side", () => { view.pitch = 0.05; }); button("Reset", () => Object.assign(view, JSON.parse(start)));
const legend = document.createElement("div");
legend.className = "legend";
data.grades.forEach((text, grade) => {
  const number = queries.filter((q) => q.g === grade).length, entry = document.createElement("span"), sign = document.createElement("i");
  if (!number) return;
  sign.className = "dot"; sign.style.background = data.colors[grade]; entry.append(sign, text + " (" + number + ")"); legend.append(entry);
});
keys.append(legend);

new ResizeObserver(resize).observe(canvas);
window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", later);
resize();
})();
