// SPDX-License-Identifier: MIT
/** @file The points and pictures of the part "operator". */
import {arrow, colours, decimal, dot, line} from './draw.js';

/** Half the width of a picture, in units of the state. */
export const range = 1.45;

/** Points of the unit disc on a hexagonal lattice. */
function discPoints() {
  const points = [], step = 0.155;
  for (let row = -7; row <= 7; ++row) {
    for (let column = -8; column <= 8; ++column) {
      const x = (column + (row & 1) / 2) * step, y = row * step * Math.sqrt(0.75);
      if (Math.hypot(x, y) <= 1) points.push(x, y);
    }
  }
  return points;
}

/** Points of the unit sphere, evenly spread along a spiral. */
function spherePoints(count) {
  const points = [], turn = Math.PI * (3 - Math.sqrt(5));
  for (let i = 0; i < count; ++i) {
    const z = 1 - (2 * i + 1) / count, radius = Math.sqrt(1 - z * z);
    points.push(radius * Math.cos(i * turn), z, radius * Math.sin(i * turn));
  }
  return points;
}

/** The corners of the letter F, which differs from its mirror image. */
const letter = [
  [-0.6, -0.5], [-0.4, -0.5], [-0.4, -0.1], [-0.1, -0.1], [-0.1, 0.1], [-0.4, 0.1], [-0.4, 0.3], [0, 0.3], [0, 0.5], [-0.6, 0.5],
];
const disc = discPoints();

/** The states before the edit: a disc and a letter in the plane, a sphere in space. One point after the other. */
export const plane = Float32Array.from([...disc, ...letter.flat()]);
export const sphere = Float32Array.from(spherePoints(420));

const degree = Math.PI / 180, tilt = 18 * degree;

/** World to camera, which turns around the vertical axis: x to the right, y up, z to the reader. */
export function toCamera([x, y, z], turn) {
  const right = x * Math.cos(turn) + z * Math.sin(turn), near = z * Math.cos(turn) - x * Math.sin(turn);
  return [right, y * Math.cos(tilt) - near * Math.sin(tilt), y * Math.sin(tilt) + near * Math.cos(tilt)];
}

/** Camera to world. */
export function toWorld([x, y, z], turn) {
  const up = y * Math.cos(tilt) + z * Math.sin(tilt), near = z * Math.cos(tilt) - y * Math.sin(tilt);
  return [x * Math.cos(turn) - near * Math.sin(turn), up, near * Math.cos(turn) + x * Math.sin(turn)];
}

/** Coordinates to pixels of a picture. */
export function pixels(width, height) {
  const unit = width / (2 * range);
  return {px: (x) => width / 2 + x * unit, py: (y) => height / 2 - y * unit, unit};
}

/** Whether a point lies beyond v along k. */
const beyond = (k, v, points, i) => k.reduce((sum, kj, j) => sum + kj * points[i + j], 0) > v;

/**
 * The disc and the letter, before and after the edit.
 * @param {CanvasRenderingContext2D} context
 * @param {number} width
 * @param {number} height
 * @param {{points: Float32Array, direction: Float32Array}} edited
 * @param {number} v
 */
export function paintPlane(context, width, height, {points, direction: k}, v) {
  const c = colours(), {px, py, unit} = pixels(width, height);
  context.strokeStyle = c.grid;
  line(context, 0, py(0), width, py(0));
  line(context, px(0), 0, px(0), height);
  context.beginPath();
  context.arc(px(0), py(0), unit, 0, 2 * Math.PI);
  context.stroke();

  context.fillStyle = c.line;
  for (let i = 0; i < disc.length; i += 2) {
    line(context, px(plane[i]), py(plane[i + 1]), px(points[i]), py(points[i + 1]));
    dot(context, px(plane[i]), py(plane[i + 1]), 1.5);
  }
  const outline = (from) => {
    context.beginPath();
    for (let i = disc.length; i < plane.length; i += 2) context.lineTo(px(from[i]), py(from[i + 1]));
    context.closePath();
    context.stroke();
  };
  context.strokeStyle = c.muted;
  context.setLineDash([4, 3]);
  outline(plane);
  line(context, px(v * k[0] - 2 * k[1]), py(v * k[1] + 2 * k[0]), px(v * k[0] + 2 * k[1]), py(v * k[1] - 2 * k[0]));
  context.setLineDash([]);
  for (let i = 0; i < disc.length; i += 2) {
    context.fillStyle = beyond(k, v, plane, i) ? c.orange : c.blue;
    dot(context, px(points[i]), py(points[i + 1]), 2.75);
  }
  context.strokeStyle = context.fillStyle = c.ink;
  context.lineWidth = 2.5;
  outline(points);
  context.globalAlpha = 0.12;
  context.fill();
  context.globalAlpha = 1;
  arrow(context, px(0), py(0), px(k[0]), py(k[1]), c.accent, 2.5);
}

/**
 * The sphere after the edit, and the plane of the points with k . x = v.
 * @param {CanvasRenderingContext2D} context
 * @param {number} width
 * @param {number} height
 * @param {{points: Float32Array, direction: Float32Array}} edited
 * @param {number} v
 * @param {number} turn  of the camera
 */
export function paintSpace(context, width, height, {points, direction: k}, v, turn) {
  const c = colours(), {px, py, unit} = pixels(width, height);
  context.strokeStyle = c.line;
  context.beginPath();
  context.arc(px(0), py(0), unit, 0, 2 * Math.PI);
  context.stroke();

  const dots = [];
  for (let i = 0; i < sphere.length; i += 3)
    dots.push({at: toCamera(points.subarray(i, i + 3), turn), colour: beyond(k, v, sphere, i) ? c.orange : c.blue});
  dots.sort((a, b) => a.at[2] - b.at[2]);
  const paintDots = (some) => {
    for (const {at: [x, y, z], colour} of some) {
      const near = Math.min(1, Math.max(0, (z + 1.2) / 2.4));
      context.globalAlpha = 0.25 + 0.75 * near;
      context.fillStyle = colour;
      dot(context, px(x), py(y), 1.75 + 1.75 * near);
    }
    context.globalAlpha = 1;
  };
  const middle = dots.filter(({at}) => at[2] <= 0).length;
  paintDots(dots.slice(0, middle));
  paintMirror(context, px, py, k, v, turn);
  paintDots(dots.slice(middle));
  const [kx, ky] = toCamera(k, turn);
  arrow(context, px(0), py(0), px(kx), py(ky), c.accent, 2.5);
}

/** The plane k . x = v as a disc, spanned by two directions across k. */
function paintMirror(context, px, py, k, v, turn) {
  const cross = (a, b) => [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]];
  const first = cross(k, Math.abs(k[0]) < Math.abs(k[1]) ? [1, 0, 0] : [0, 1, 0]), second = cross(k, first);
  const radius = 1.1 / Math.hypot(...first);
  context.beginPath();
  for (let angle = 0; angle < 360; angle += 7.5) {
    const a = radius * Math.cos(angle * degree), b = radius * Math.sin(angle * degree);
    const [x, y] = toCamera([0, 1, 2].map((j) => v * k[j] + a * first[j] + b * second[j]), turn);
    context.lineTo(px(x), py(y));
  }
  context.closePath();
  context.fillStyle = context.strokeStyle = colours().muted;
  context.globalAlpha = 0.12;
  context.fill();
  context.globalAlpha = 0.6;
  context.setLineDash([4, 3]);
  context.stroke();
  context.setLineDash([]);
  context.globalAlpha = 1;
}

/**
 * The two eigenvalues on a line.
 * @param {CanvasRenderingContext2D} context
 * @param {number} width
 * @param {number} height
 * @param {[number, number]} eigenvalues  across and along k
 */
export function paintSpectrum(context, width, height, [across, along]) {
  const c = colours(), y = height - 26, px = (x) => 18 + ((x + 1) / 2) * (width - 36);
  context.strokeStyle = c.line;
  context.fillStyle = c.muted;
  context.textAlign = 'center';
  context.textBaseline = 'top';
  line(context, px(-1), y, px(1), y);
  for (const t of [-1, 0, 1]) {
    line(context, px(t), y - 4, px(t), y + 4);
    context.fillText(decimal(t, 0), px(t), y + 10);
  }
  context.textBaseline = 'bottom';
  for (const [at, colour, text, above] of [[across, c.muted, 'across k', 22], [along, c.accent, 'along k', 8]]) {
    context.fillStyle = colour;
    dot(context, px(at), y, 5);
    context.textAlign = at > 0.8 ? 'right' : at < -0.8 ? 'left' : 'center';
    context.fillText(text, px(at), y - above);
  }
}
