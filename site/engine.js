// SPDX-License-Identifier: MIT
/**
 * The page's side of the library, which runs in a Web Worker as WebAssembly (worker.js). One Engine is one worker with
 * one part of the playground.
 *
 *     const engine = await Engine.load('depth', {onFrame: draw, onStop: showMessage});
 *     await engine.reset(settings);       // a new object with these settings; its first frame follows
 *     engine.start({stepsPerFrame: 4});   // frames follow, one for each frame of the display; 0: as many steps as fit
 *     engine.pause();
 *     engine.step();                      // one training step and its frame
 *
 * Settings and frames of the parts. Arrays are typed arrays, matrices are flat and column-major (as in the library).
 *
 * 'operator': Y = X + beta k (v - X^T k)^T on points, by ddl::DeltaOperator. No frames.
 *     await engine.call('edit', {direction, beta, value, points})
 *         direction   2 or 3 numbers of any length but 0; k is their unit vector
 *         beta        0 .. 2
 *         value       the same v for every point, or null: the product A X, which writes nothing
 *         points      d x N, one point after the other
 *       -> {points: d x N Float32Array, direction: k, eigenvalues: [1, 1 - beta], determinant, regime}
 *         regime      'identity', 'projection' or 'reflection': the nearest
 *
 * 'depth': a DeltaResNet learns two classes of points in the plane [-1, 1] x [-1, 1].
 *     settings {data: 'spirals' | 'circles' | 'xor' | 'own', points, labels, depth, width, channels, update,
 *               learningRate, batch, seed}
 *         points, labels   with data: 'own', Float32Array of 2 x N and array of N numbers 0 or 1
 *         update           'delta' | 'write_only' | 'additive'
 *     frame {step, losses, train: {loss, accuracy}, test: {loss, accuracy}, parameters,
 *            bins, beta, before, after, regions, size}
 *         losses           of the steps since the last frame; the other figures are renewed a few times a second
 *         test             NaN with data: 'own', which has no test points; the layers then show the training points
 *         beta             bins x depth: shares of the test points, beta from 0 to 2; empty with the additive rule
 *         before, after    depth: mean |X^T k - v| before and after each layer's edit; empty with the additive rule
 *         regions          size x size, Uint8Array: 255 times the probability of class 1, row by row from the top left
 *                          (x = -1, y = 1); null in frames that have no new picture
 *     await engine.call('points') -> {train: {points, labels}, test: {points, labels}}     of the data set
 *
 * 'time': two mixers learn to follow an automaton, beta in (0, 1) and beta in (0, 2).
 *     settings {task: 'parity' | 'S3', learningRate, seed}
 *     frame {step, steps, trained, guessing, mixers: [{losses, accuracy, beta}, ..]}
 *         steps            of the whole run; it stops by itself
 *         losses           of the steps since the last frame
 *         trained          tokens of a sequence in training
 *         guessing         share that guessing gets right
 *         accuracy         share of test sequences whose state is right after 1, 2, .. tokens
 *         beta             shares of the betas in equal bins from 0 to 2
 *
 * 'memory': the states of a deep stack are recovered from the last one, layer by layer. No frames.
 *     await engine.call('rewind', {depth, width, channels, beta, seed})
 *       -> {errors, states, recovered, stateBytes, editBytes}
 *         beta             of every layer, before training: in (0, 2)
 *         errors           depth + 1: |recovered - stored| / |stored| of X_0 .. X_depth, over a batch of samples
 *         states, recovered   the first sample's d m numbers of X_0 .. X_depth, stored and recovered
 *         stateBytes, editBytes   of all samples: stored states, or the last state and the edits alone
 *
 * A call that fails rejects with an Error whose message is the library's. Training that fails (a loss that is not
 * finite) stops, and onStop gets the message; onStop gets nothing when a run has made all of its steps.
 */
export class Engine {
  #worker;
  #handlers;
  #waiting = new Map();
  #last = 0;

  /**
   * Starts a worker and loads the module.
   * @param {'operator' | 'depth' | 'time' | 'memory'} part
   * @param {{onFrame?: (frame: object) => void, onStop?: (message?: string) => void}} handlers
   * @returns {Promise<Engine>}
   */
  static async load(part, handlers = {}) {
    const engine = new Engine(handlers);
    await engine.call('load', part);
    return engine;
  }

  constructor(handlers) {
    this.#handlers = handlers;
    this.#worker = new Worker(new URL('worker.js', import.meta.url), {type: 'module'});
    this.#worker.onmessage = ({data}) => this.#receive(data);
    this.#worker.onerror = (event) => this.#fail(event.message ?? 'the worker could not be started');
  }

  /** Calls a function of the part in the worker. */
  call(method, ...args) {
    const id = ++this.#last;
    return new Promise((resolve, reject) => {
      this.#waiting.set(id, {resolve, reject});
      this.#worker.postMessage({id, method, args});
    });
  }

  reset(settings) {
    return this.call('reset', settings);
  }
  start({stepsPerFrame = 0} = {}) {
    return this.call('start', stepsPerFrame);
  }
  pause() {
    return this.call('pause');
  }
  step() {
    return this.call('step');
  }
  /** Ends the worker. */
  close() {
    this.#worker.terminate();
  }

  #receive({id, result, error, frame, stopped}) {
    if (frame) {
      // The worker sends the next frame when this one is drawn, and trains meanwhile.
      requestAnimationFrame(() => {
        this.#handlers.onFrame?.(frame);
        this.#worker.postMessage({method: 'drawn', args: []});
      });
    } else if (stopped) {
      this.#handlers.onStop?.(stopped.message);
    } else {
      const {resolve, reject} = this.#waiting.get(id);
      this.#waiting.delete(id);
      if (error === undefined) resolve(result);
      else reject(new Error(error));
    }
  }

  #fail(message) {
    for (const {reject} of this.#waiting.values()) reject(new Error(message));
    this.#waiting.clear();
  }
}

/** True if the browser runs WebAssembly with SIMD: it accepts the smallest module that uses an instruction of it. */
export function hasSimd() {
  return typeof WebAssembly === 'object' && WebAssembly.validate(new Uint8Array([
    0, 97, 115, 109, 1, 0, 0, 0,    // magic number, version
    1, 5, 1, 96, 0, 1, 123,         // a type: () -> v128
    3, 2, 1, 0,                     // a function of that type
    10, 10, 1, 8, 0, 65, 0, 253, 15, 253, 98, 11,  // i32.const 0, i8x16.splat, i8x16.popcnt
  ]));
}
