// SPDX-License-Identifier: MIT
/** @file The pictures of the part "depth". */
import {chart, colours, decimal, dot, fitHeight, histogram, line, rgb} from './draw.js';

const longestCurve = 1200;
const pixels = document.createElement('canvas');  // decision regions, a pixel for each point of their grid

/** Losses over the steps; every other point is dropped when there are many. */
export class LossCurve {
  step = [];
  train = [];
  test = [];
  #every = 1;
  #seen = 0;

  add(step, train, test) {
    if (this.#seen++ % this.#every !== 0) return;
    this.step.push(step);
    this.train.push(train);
    this.test.push(test);
    if (this.step.length <= longestCurve) return;
    for (const name of ['step', 'train', 'test']) this[name] = this[name].filter((_, i) => i % 2 === 0);
    this.#every *= 2;
  }
}

/**
 * The square from -1 to 1: which class the network gives each point, and the points of the data set.
 * @param {CanvasRenderingContext2D} context
 * @param {number} width
 * @param {object} what
 * @param {Uint8Array | null} what.regions  255 times the probability of class 1, size x size
 * @param {number} what.size
 * @param {{train: object, test: object}} what.data  points and labels
 * @param {{x: number, y: number} | null} what.cross  where the keyboard would add a point
 */
export function paintRegions(context, width, {regions, size, data, cross}) {
  const c = colours(), at = (x) => ((x + 1) / 2) * width, down = (y) => ((1 - y) / 2) * width;
  if (regions) {
    pixels.width = pixels.height = size;
    const small = pixels.getContext('2d'), image = small.createImageData(size, size);
    const card = rgb(c.card), sides = [rgb(c['blue-soft']), rgb(c['orange-soft'])];
    regions.forEach((p, i) => {
      const side = sides[p > 127 ? 1 : 0], weight = Math.abs(p / 127.5 - 1);
      for (let j = 0; j < 3; ++j) image.data[4 * i + j] = card[j] + weight * (side[j] - card[j]);
      image.data[4 * i + 3] = 255;
    });
    small.putImageData(image, 0, 0);
    context.drawImage(pixels, 0, 0, width, width);
  }
  const classes = [c.blue, c.orange];
  context.lineWidth = 1.25;
  context.globalAlpha = 0.55;
  data.test.labels.forEach((label, n) => {
    context.strokeStyle = classes[label];
    context.beginPath();
    context.arc(at(data.test.points[2 * n]), down(data.test.points[2 * n + 1]), 2.25, 0, 2 * Math.PI);
    context.stroke();
  });
  context.globalAlpha = 1;
  data.train.labels.forEach((label, n) => {
    const x = at(data.train.points[2 * n]), y = down(data.train.points[2 * n + 1]);
    context.fillStyle = c.card;
    dot(context, x, y, 3.75);
    context.fillStyle = classes[label];
    dot(context, x, y, 2.75);
  });
  context.canvas.setAttribute('aria-label', `Decision regions and ${data.train.labels.length} points to learn from` +
    (cross ? `; the cross is at ${decimal(cross.x)}, ${decimal(cross.y)}` : ''));
  if (!cross) return;
  context.strokeStyle = c.ink;
  line(context, at(cross.x) - 9, down(cross.y), at(cross.x) + 9, down(cross.y));
  line(context, at(cross.x), down(cross.y) - 9, at(cross.x), down(cross.y) + 9);
}

/**
 * The losses on a logarithmic axis.
 * @param {CanvasRenderingContext2D} context
 * @param {number} width
 * @param {number} height
 * @param {LossCurve} curve
 */
export function paintLoss(context, width, height, curve) {
  const c = colours(), losses = [...curve.train, ...curve.test].filter((loss) => loss > 0);
  const last = curve.step.at(-1) ?? 0;
  const low = Math.max(1e-6, 10 ** Math.floor(Math.log10(Math.min(0.1, ...losses))));
  const series = [{x: curve.step, y: curve.train, colour: c.blue}];
  if (curve.test.some(Number.isFinite)) series.push({x: curve.step, y: curve.test, colour: c.orange, dashed: true});
  chart(context, {x: 0, y: 0, width, height}, {
    x: [0, Math.max(100, last)], y: [low, Math.max(1, ...losses)], log: true, xLabel: 'step', yLabel: 'cross-entropy', series,
  });
  context.canvas.setAttribute('aria-label',
    `Loss over ${last} steps: train ${decimal(curve.train.at(-1) ?? NaN, 4)}, test ${decimal(curve.test.at(-1) ?? NaN, 4)}`);
}

const rowHeight = 40, headHeight = 24, footHeight = 24;

/**
 * For each layer the histogram of its gate, and the discrepancy before and after its edit.
 * @param {CanvasRenderingContext2D} context
 * @param {number} width
 * @param {{beta: Float32Array, bins: number, before: Float32Array, after: Float32Array}} frame
 */
export function paintLayers(context, width, {beta, bins, before, after}) {
  const c = colours(), depth = before.length;
  if (!fitHeight(context.canvas, headHeight + Math.max(1, depth) * rowHeight + footHeight)) return;
  context.fillStyle = c.muted;
  context.textBaseline = 'middle';
  if (depth === 0) {
    context.fillText('No gates to show.', 0, headHeight);
    context.canvas.setAttribute('aria-label', 'No gates to show');
    return;
  }
  const left = 24, gap = 28, column = (width - left - gap - 10) / 2, right = left + column + gap;
  const bottom = headHeight + depth * rowHeight, largest = Math.max(1e-9, ...before, ...after);
  const px = (x) => right + (x / (1.05 * largest)) * column;
  context.fillText('gate β', left, 8);
  context.fillText('discrepancy', right, 8);
  for (let layer = 0; layer < depth; ++layer) {
    const box = {x: left, y: headHeight + layer * rowHeight, width: column, height: rowHeight - 8};
    const floor = box.y + box.height, middle = box.y + box.height / 2, from = px(before[layer]), to = px(after[layer]);
    context.fillStyle = c.muted;
    context.textAlign = 'right';
    context.fillText(String(layer + 1), left - 10, middle);
    context.lineWidth = 1;
    context.strokeStyle = c.grid;
    line(context, left + column / 2, box.y, left + column / 2, floor);
    line(context, right, middle, right + column, middle);
    histogram(context, box, beta.subarray(layer * bins, (layer + 1) * bins), c.blue);
    context.strokeStyle = c.line;
    line(context, left, floor, left + column, floor);
    context.lineWidth = 3;
    context.strokeStyle = c.orange;
    line(context, from, middle, to, middle);
    context.fillStyle = c.muted;
    dot(context, from, middle, 5.5);
    context.fillStyle = c.card;
    dot(context, from, middle, 3.5);
    context.fillStyle = c.orange;
    dot(context, to, middle, 4.5);
  }
  context.fillStyle = c.muted;
  context.textAlign = 'center';
  for (const tick of [0, 1, 2]) context.fillText(String(tick), left + (tick / 2) * column, bottom + 6);
  context.fillText('0', right, bottom + 6);
  context.fillText(decimal(largest), px(largest), bottom + 6);
  context.canvas.setAttribute('aria-label', 'Mean discrepancy before and after the edit, by layer: ' +
    Array.from(before, (x, layer) => `${decimal(x)} to ${decimal(after[layer])}`).join(', '));
}
