// SPDX-License-Identifier: MIT
/** @file The part "time": two networks learn to follow an automaton, with beta in (0, 1) and with beta in (0, 2). */
import {complain, seed, select} from './controls.js';
import {Surface, chart, colours, decimal, histogram, line} from './draw.js';

const titles = ['β in (0, 1)', 'β in (0, 2)'];

const mixer = (index) => `
  <div class="panel">
    <h3>Edits with ${titles[index]}</h3>
    <canvas class="wide" role="img" data-canvas="accuracy${index}"></canvas>
    <p class="keys">
      <span class="key"><i style="--colour: var(${['--orange', '--blue'][index]})"></i>share of states named right</span>
      <span class="key"><i class="dashed" style="--colour: var(--muted)"></i>guessing (horizontal), length of training (vertical)</span>
    </p>
    <canvas class="strip" role="img" data-canvas="beta${index}"></canvas>
  </div>`;

const html = `
  <form class="panel stack">
    <div class="settings">
      ${select('task', 'Automaton', ['parity', ['S3', 'S₃']], 'parity')}
      ${select('learningRate', 'Learning rate', [0.001, 0.002, 0.005, 0.01, 0.02], 0.01)}
      ${seed(1)}
    </div>
    <div class="row">
      <div class="controls">
        <button type="button" class="primary" name="run">Start</button>
        <button type="button" name="step">Step</button>
        <button type="button" name="reset">Reset</button>
      </div>
      <dl class="figures">
        <div><dt>Step</dt><dd data-out="step"></dd></div>
        ${titles.map((title, i) => `<div><dt>Accuracy at the last token, ${title}</dt><dd data-out="last${i}"></dd></div>`).join('')}
      </dl>
    </div>
    <p class="error" role="alert" hidden></p>
  </form>
  <div class="panels">${mixer(0)}${mixer(1)}</div>
  <div class="panels">
    <div class="panel">
      <h3>Loss</h3>
      <canvas class="low" role="img" data-canvas="loss"></canvas>
      <p class="keys">
        <span class="key"><i class="dashed" style="--colour: var(--orange)"></i>${titles[0]}</span>
        <span class="key"><i style="--colour: var(--blue)"></i>${titles[1]}</span>
      </p>
    </div>
  </div>`;

/**
 * Builds the part.
 * @param {HTMLElement} element
 * @param {(handlers: object) => Promise<import('./engine.js').Engine>} loadEngine
 */
export async function mount(element, loadEngine) {
  element.innerHTML = html;
  const engine = await loadEngine({onFrame, onStop});
  const form = element.querySelector('form'), {run, step} = form.elements;
  const out = (name) => element.querySelector(`[data-out="${name}"]`);
  const canvas = (name) => element.querySelector(`[data-canvas="${name}"]`);
  let frame = null, losses = [[], []], running = false;

  function setRunning(on) {
    running = on;
    const finished = frame !== null && frame.step === frame.steps;
    run.textContent = on ? 'Pause' : finished ? 'Finished' : 'Start';
    run.disabled = finished;
    step.disabled = on || finished;
  }

  async function reset() {
    if (!form.reportValidity()) return;
    const {task, learningRate, seed: {value}} = form.elements;
    frame = null;
    losses = [[], []];
    complain(element);
    setRunning(false);
    try {
      await engine.reset({task: task.value, learningRate: Number(learningRate.value), seed: Number(value)});
    } catch (error) {
      complain(element, error.message);
    }
  }

  function onFrame(next) {
    frame = next;
    next.mixers.forEach((one, i) => {
      losses[i].push(...one.losses);
      out(`last${i}`).textContent = `${decimal(100 * one.accuracy.at(-1), 0)} %`;
    });
    out('step').textContent = `${next.step} of ${next.steps}`;
    setRunning(running);
    surfaces.forEach((surface) => surface.request());
  }

  function onStop(message) {
    complain(element, message);
    setRunning(false);
  }

  const paintAccuracy = (index) => (context, width, height) => {
    if (!frame) return;
    const c = colours(), {accuracy} = frame.mixers[index], x = Array.from(accuracy, (_, i) => i + 1);
    chart(context, {x: 0, y: 0, width, height}, {
      x: [0, accuracy.length], y: [0, 1], xLabel: 'tokens read', yLabel: 'accuracy',
      series: [
        {x: [0, accuracy.length], y: [frame.guessing, frame.guessing], colour: c.muted, dashed: true},
        {x: [frame.trained, frame.trained], y: [0, 1], colour: c.muted, dashed: true},
        {x, y: accuracy, colour: [c.orange, c.blue][index]},
      ],
    });
    context.canvas.setAttribute('aria-label', `Accuracy with ${titles[index]} after ${accuracy.length} tokens: ${decimal(accuracy.at(-1))}`);
  };

  const paintBeta = (index) => (context, width, height) => {
    if (!frame) return;
    const c = colours(), left = 40, right = width - 16, bottom = height - 20;
    histogram(context, {x: left, y: 18, width: right - left, height: bottom - 18}, frame.mixers[index].beta, [c.orange, c.blue][index]);
    context.strokeStyle = c.line;
    line(context, left, bottom, right, bottom);
    context.fillStyle = c.muted;
    context.textBaseline = 'top';
    context.fillText('share of tokens by β', 0, 0);
    context.textAlign = 'center';
    for (const beta of [0, 1, 2]) context.fillText(String(beta), left + (beta / 2) * (right - left), bottom + 5);
    context.canvas.setAttribute('aria-label', `Histogram of beta with ${titles[index]}`);
  };

  function paintLoss(context, width, height) {
    const c = colours(), series = losses.map((y, i) => ({
      x: y.map((_, j) => j + 1), y, colour: [c.orange, c.blue][i], dashed: i === 0,
    }));
    chart(context, {x: 0, y: 0, width, height}, {
      x: [0, frame?.steps ?? 1], y: [0, Math.max(0.1, ...losses.flat())], xLabel: 'step', yLabel: 'cross-entropy', series,
    });
    context.canvas.setAttribute('aria-label', `Loss over ${losses[0].length} steps: ` +
      losses.map((y, i) => `${titles[i]} ${decimal(y.at(-1) ?? NaN, 3)}`).join(', '));
  }

  const surfaces = [
    ...[0, 1].flatMap((i) => [new Surface(canvas(`accuracy${i}`), paintAccuracy(i)), new Surface(canvas(`beta${i}`), paintBeta(i))]),
    new Surface(canvas('loss'), paintLoss),
  ];
  form.addEventListener('submit', (event) => event.preventDefault());
  form.addEventListener('change', reset);
  form.elements.reset.addEventListener('click', reset);
  step.addEventListener('click', () => engine.step());
  run.addEventListener('click', () => {
    if (running) engine.pause();
    else engine.start();
    setRunning(!running);
  });
  await reset();
}
