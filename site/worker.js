// SPDX-License-Identifier: MIT
/**
 * The Web Worker of one part of the playground. It owns the WebAssembly module, and trains while the page draws, so that
 * the page never waits. engine.js is the other end and describes the settings, calls and frames of each part.
 *
 *     page -> worker   {id, method, args}          one of `commands`, or a method of the part
 *     worker -> page   {id, result} | {id, error}
 *                      {frame}                     answered by `drawn`, upon which the next turn of training follows
 *                      {stopped: {message}}        a run has made all of its steps, or has failed with the message
 */
import loadModule from './playground.js';

let wasm;
let part;
let running = false;
let stepsPerFrame = 0;
let undrawn = 0;  // frames that the page has not drawn yet

/** Figures that are slow to compute: they are renewed as often as takes a fifth of the time. */
class Figures {
  #measure;
  #due = 0;
  #last;

  constructor(measure) {
    this.#measure = measure;
  }
  /** The figures, and whether they are new. */
  look(always) {
    const begun = performance.now(), fresh = always || begun >= this.#due;
    if (fresh) {
      this.#last = this.#measure();
      const now = performance.now();
      this.#due = now + 4 * (now - begun);
    }
    return [this.#last, fresh];
  }
}

class Operator {
  edit({direction, beta, value, points}) {
    return wasm.edit(direction, beta, value ?? 0, points);
  }
}

class Depth {
  static size = 48;  // of the picture of the decision regions
  slice = 12;        // milliseconds of training for a frame, of the 16 that 60 frames a second leave
  finished = false;
  #net;
  #figures;

  reset(settings) {
    this.#net?.delete();
    this.#net = undefined;
    this.#net = new wasm.Depth(settings);
    this.#figures = new Figures(() => this.#net.test(Depth.size));
  }
  /** Trains for as many steps, or until the time is over. @returns their losses. */
  train(steps, until) {
    return this.#net.train(steps, Math.max(0, until - performance.now()) / 1000);
  }
  frame(losses, always) {
    const [figures, fresh] = this.#figures.look(always);
    return {step: this.#net.step(), losses, ...figures, size: Depth.size, regions: fresh ? figures.regions : null};
  }
  points() {
    return this.#net.points();
  }
}

class Time {
  static runs = {parity: {edits: 1, steps: 200}, S3: {edits: 4, steps: 600}};  // edits a token, training steps
  slice = 30;  // a step of both mixers takes longer than a frame of the display
  finished = false;
  #mixers = [];
  #settings;
  #figures;

  reset({task, learningRate, seed}) {
    this.#mixers.forEach((mixer) => mixer.delete());
    this.#mixers = [];
    for (const negativeEigenvalues of [false, true])
      this.#mixers.push(new wasm.Time({...Time.runs[task], task, negativeEigenvalues, learningRate, seed}));
    this.#settings = this.#mixers[0].settings();
    this.#figures = new Figures(() => this.#mixers.map((mixer) => mixer.test()));
    this.finished = false;
  }
  train(steps, until) {
    const losses = this.#mixers.map(() => []);
    for (; steps > 0 && !this.finished; --steps) {
      this.#mixers.forEach((mixer, i) => losses[i].push(...mixer.train(1)));
      this.finished = this.#mixers[0].step() === this.#settings.steps;
      if (performance.now() >= until) break;
    }
    return losses;
  }
  frame(losses, always) {
    const [figures] = this.#figures.look(always || this.finished);
    const mixers = figures.map((figure, i) => ({losses: Float32Array.from(losses[i] ?? []), ...figure}));
    return {step: this.#mixers[0].step(), ...this.#settings, mixers};
  }
}

class Memory {
  rewind(settings) {
    return wasm.rewind(settings);
  }
}

const parts = {operator: Operator, depth: Depth, time: Time, memory: Memory};

function show(losses, always) {
  postMessage({frame: part.frame(losses, always)});
  ++undrawn;
}

/** Trains for one frame, unless the page has still to draw the last one. */
function turn() {
  if (!running || undrawn > 0) return;
  try {
    show(part.train(stepsPerFrame || 1e6, performance.now() + part.slice), false);
    if (part.finished) stop();
  } catch (error) {
    stop(error.message);
  }
}

function stop(message) {
  running = false;
  postMessage({stopped: {message}});
}

const commands = {
  async load(name) {
    wasm = await loadModule();
    part = new parts[name]();
  },
  reset(settings) {
    running = false;
    part.reset(settings);
    show([], true);
  },
  start(steps) {
    running = true;
    stepsPerFrame = steps;
    turn();
  },
  pause() {
    running = false;
  },
  step() {
    if (!part.finished) show(part.train(1, Infinity), true);
  },
  drawn() {
    --undrawn;
    turn();
  },
};

onmessage = async ({data: {id, method, args}}) => {
  try {
    const result = await (method in commands ? commands[method](...args) : part[method](...args));
    if (id !== undefined) postMessage({id, result});
  } catch (error) {
    postMessage({id, error: error.message});
  }
};
