// SPDX-License-Identifier: MIT
/** @file The part "memory": a deep stack runs forward, and its states are recovered from the last one, layer by layer. */
import {complain, seed, select} from './controls.js';
import {Surface, chart, colours, decimal, fitHeight, reducedMotion, rgb, scientific} from './draw.js';

const layersASecond = 60;
const rounding = 2 ** -24;  // of a float

const html = `
  <form class="panel stack">
    <div class="settings">
      ${select('depth', 'Layers', [25, 50, 100, 200, 400], 100)}
      ${select('beta', 'Gate β, about', [0.1, 0.5, 1, 1.5, 1.9], 1)}
      ${select('width', 'Width d', [8, 16, 32], 16)}
      ${select('channels', 'Channels m', [1, 2, 4, 8], 4)}
      ${seed(1)}
    </div>
    <div class="controls">
      <button type="button" class="primary" name="rewind">Rewind</button>
      <label class="wide"><span>The state after layer <output></output></span>
        <input type="range" name="layer" min="0" step="1" aria-label="The state after layer"></label>
    </div>
    <p class="error" role="alert" hidden></p>
  </form>
  <div class="panels">
    <div class="panel">
      <h3>The state of one sample, <span class="maths">X<sup>T</sup></span></h3>
      <canvas role="img" data-canvas="states"></canvas>
      <p class="keys">
        <span class="key"><i class="box" style="--colour: var(--blue)"></i>below 0</span>
        <span class="key"><i class="box" style="--colour: var(--orange)"></i>above 0</span>
      </p>
    </div>
    <div class="panel stack">
      <div>
        <h3>Error of each recovered state</h3>
        <canvas class="wide" role="img" data-canvas="errors"></canvas>
        <p class="keys">
          <span class="key"><i style="--colour: var(--blue)"></i>|recovered − stored| / |stored|</span>
          <span class="key"><i class="dashed" style="--colour: var(--muted)"></i>rounding of a float, 2<sup>−24</sup></span>
        </p>
      </div>
      <dl class="figures">
        <div><dt>Largest error</dt><dd data-out="largest"></dd></div>
        <div><dt>All states</dt><dd data-out="stateBytes"></dd></div>
        <div><dt>The last state and the edits</dt><dd data-out="editBytes"></dd></div>
      </dl>
      <p class="note">A training step needs every state once more on its way back. Stored, they take <var>d</var> <var>m</var> numbers a sample and layer.
        An edit takes about <var>d</var> + 2 <var>m</var>, which is less unless <var>m</var> = 1; the states are computed from the edits when they are needed.</p>
    </div>
  </div>`;

const kilobytes = (bytes) => `${Math.round(bytes / 1024)} KiB`;

/**
 * Builds the part.
 * @param {HTMLElement} element
 * @param {(handlers: object) => Promise<import('./engine.js').Engine>} loadEngine
 */
export async function mount(element, loadEngine) {
  element.innerHTML = html;
  const engine = await loadEngine({});
  const form = element.querySelector('form'), layer = form.elements.layer, rewind = form.elements.rewind;
  const out = (name) => element.querySelector(`[data-out="${name}"]`);
  const canvas = (name) => element.querySelector(`[data-canvas="${name}"]`);
  let run = null, playing = false;

  const settings = () =>
    Object.fromEntries(['depth', 'beta', 'width', 'channels', 'seed'].map((name) => [name, Number(form.elements[name].value)]));

  async function compute() {
    if (!form.reportValidity()) return;
    const chosen = settings();
    playing = false;
    element.setAttribute('aria-busy', true);
    try {
      run = {...chosen, ...await engine.call('rewind', chosen)};
      complain(element);
    } catch (error) {
      complain(element, error.message);
      return;
    } finally {
      element.removeAttribute('aria-busy');
    }
    layer.max = run.depth;
    layer.value = run.depth;
    out('largest').textContent = scientific(Math.max(...run.errors));
    out('stateBytes').textContent = kilobytes(run.stateBytes);
    out('editBytes').textContent = kilobytes(run.editBytes);
    show();
  }

  function show() {
    form.querySelector('output').textContent = layer.value;
    rewind.textContent = playing ? 'Stop' : 'Rewind';
    surfaces.forEach((surface) => surface.request());
  }

  /** Moves the layer shown down to 0, at an even speed. */
  function play() {
    if (Number(layer.value) === 0) layer.value = run.depth;
    const from = Number(layer.value), begun = performance.now();
    playing = true;
    const turn = (now) => {
      if (!playing) return;
      const gone = reducedMotion() ? from : Math.floor(((now - begun) / 1000) * layersASecond * Math.max(1, run.depth / 200));
      layer.value = Math.max(0, from - Math.max(0, gone));
      playing = Number(layer.value) > 0;
      show();
      requestAnimationFrame(turn);
    };
    requestAnimationFrame(turn);
    show();
  }

  const labelHeight = 24, gap = 12;
  function paintStates(context, width) {
    if (!run) return;
    const c = colours(), d = run.width, m = run.channels, at = Number(layer.value);
    const cell = Math.min(32, width / d), bandHeight = labelHeight + m * cell + gap;
    if (!fitHeight(context.canvas, Math.ceil(3 * bandHeight))) return;
    const stored = run.states.slice(at * d * m, (at + 1) * d * m);
    const recovered = run.recovered.slice(at * d * m, (at + 1) * d * m);
    const difference = stored.map((x, i) => recovered[i] - x);
    const largest = (numbers) => numbers.reduce((most, x) => Math.max(most, Math.abs(x)), 0);
    const card = rgb(c.card), below = rgb(c.blue), above = rgb(c.orange);
    const band = (index, text, numbers, scale) => {
      const top = index * bandHeight;
      context.fillStyle = c.muted;
      context.textBaseline = 'middle';
      context.fillText(text, 0, top + labelHeight / 2);
      for (let i = 0; i < d; ++i) {
        for (let j = 0; j < m; ++j) {
          const x = numbers[j * d + i] / (scale || 1), to = x < 0 ? below : above, weight = Math.min(1, Math.abs(x));
          context.fillStyle = `rgb(${card.map((from, q) => Math.round(from + weight * (to[q] - from))).join(' ')})`;
          context.fillRect(i * cell, top + labelHeight + j * cell, cell - 1, cell - 1);
        }
      }
      context.strokeStyle = c.line;
      context.lineWidth = 1;
      context.strokeRect(-0.5, top + labelHeight - 0.5, d * cell, m * cell);
    };
    const size = largest(stored), error = largest(difference);
    band(0, `stored, after layer ${at}: up to ${decimal(size)}`, stored, size);
    band(1, 'recovered', recovered, size);
    band(2, `recovered − stored: up to ${scientific(error)}`, difference, error);
    context.canvas.setAttribute('aria-label',
      `Stored and recovered state after layer ${at}; they differ by at most ${scientific(error)}`);
  }

  function paintErrors(context, width, height) {
    if (!run) return;
    const c = colours(), at = Number(layer.value), x = [], y = [];
    for (let l = at; l <= run.depth; ++l) {
      if (run.errors[l] > 0) {
        x.push(l);
        y.push(run.errors[l]);
      }
    }
    chart(context, {x: 0, y: 0, width, height}, {
      x: [0, run.depth], y: [1e-8, Math.max(1e-5, ...run.errors)], log: true, xLabel: 'layer', yLabel: 'relative error',
      series: [
        {x: [0, run.depth], y: [rounding, rounding], colour: c.muted, dashed: true},
        {x, y, colour: c.blue},
      ],
    });
    context.canvas.setAttribute('aria-label', `Relative error by layer, from layer ${run.depth} down to ${at}: now ${scientific(run.errors[at])}`);
  }

  const surfaces = [new Surface(canvas('states'), paintStates), new Surface(canvas('errors'), paintErrors)];
  form.addEventListener('submit', (event) => event.preventDefault());
  form.addEventListener('change', ({target}) => {
    if (target !== layer) compute();
  });
  layer.addEventListener('input', () => {
    playing = false;
    show();
  });
  rewind.addEventListener('click', () => {
    if (playing) playing = false;
    else play();
    show();
  });
  await compute();
}
