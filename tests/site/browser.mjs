// SPDX-License-Identifier: MIT
/**
 * @file The playground in headless Chromium: node browser.mjs CHROMIUM SITE NATIVE, in a folder with playwright-core in its
 * node_modules. Writes pictures of the page into that folder.
 */
import assert from 'node:assert/strict';
import {execFileSync} from 'node:child_process';
import {readFileSync} from 'node:fs';
import {createServer} from 'node:http';
import {createRequire} from 'node:module';
import {extname, join, normalize} from 'node:path';
import {after, before, test} from 'node:test';
import {gzipSync} from 'node:zlib';

const [chromiumPath, site, native] = process.argv.slice(2);
const {chromium} = createRequire(`${process.cwd()}/`)('playwright-core');

const types = {'.html': 'text/html', '.css': 'text/css', '.js': 'text/javascript', '.wasm': 'application/wasm'};
const server = createServer((request, response) => {
  const path = normalize(new URL(request.url, 'http://localhost').pathname.replace(/\/$/, '/index.html'));
  try {
    const text = readFileSync(join(site, path));
    response.writeHead(200, {'content-type': types[extname(path)] ?? 'application/octet-stream'}).end(text);
  } catch {
    response.writeHead(404).end();
  }
});

let browser, origin;
before(async () => {
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  origin = `http://127.0.0.1:${server.address().port}`;
  // No other name or address can be reached, and an attempt is an error on the console.
  browser = await chromium.launch({
    executablePath: chromiumPath,
    args: ['--no-sandbox', '--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1'],
  });
});
after(async () => {
  await browser?.close();
  server.close();
});

/** Runs `use(page)` on a new page, which must neither complain on its console nor ask for anything elsewhere. */
async function onPage(use, {init, ...options} = {}) {
  const context = await browser.newContext({viewport: {width: 1280, height: 900}, ...options});
  const page = await context.newPage(), problems = [];
  page.setDefaultTimeout(20_000);
  page.on('console', (message) => {
    if (['error', 'warning'].includes(message.type())) problems.push(`${message.type()}: ${message.text()}`);
  });
  page.on('pageerror', (error) => problems.push(`uncaught: ${error.message}`));
  page.on('request', (request) => {
    const url = request.url();
    if (!url.startsWith(`${origin}/`) && !url.startsWith('data:')) problems.push(`request: ${url}`);
  });
  page.on('requestfailed', (request) => problems.push(`failed request: ${request.url()}`));
  if (init) await page.addInitScript(init);
  try {
    await use(page);
  } finally {
    await context.close();
  }
  assert.deepEqual(problems, []);
}

/** Scrolls to a part and waits until it is loaded. */
async function open(page, part) {
  await page.locator(`#${part}`).scrollIntoViewIfNeeded();
  await page.locator(`#${part} .part:not([aria-busy])`).waitFor();
}

/** Waits until the text of an element, as a number, is at least `least`. */
const reaches = (page, selector, least) => page.waitForFunction(
  ([element, number]) => parseFloat(document.querySelector(element).textContent) >= number, [selector, least]);

const number = async (page, selector) => parseFloat((await page.locator(selector).textContent()).replace('\u2212', '-'));

/** The frame after so many single steps of a new run in the worker, with all losses so far. */
const run = (page, part, settings, steps) => page.evaluate(async ([name, given, count]) => {
  const {Engine} = await import('./engine.js');
  let last, losses = [];
  const drawn = (frame) => {
    last = frame;
    losses.push(...(frame.losses ?? []));
    frame.mixers?.forEach((mixer, i) => (losses[i] ??= []).push(...mixer.losses));
  };
  const engine = await Engine.load(name, {onFrame: drawn});
  await engine.reset(given);
  for (let i = 0; i < count; ++i) await engine.step();
  while (last?.step !== count) await new Promise(requestAnimationFrame);
  engine.close();
  return {frame: last, losses};
}, [part, settings, steps]);

/** Waits until get(element) is no longer `old`. */
async function changed(page, locator, get, old) {
  for (const end = performance.now() + 10_000; await locator.evaluate(get) === old;) {
    assert.ok(performance.now() < end, `${await locator.evaluate((element) => element.outerHTML)} stays as it is`);
    await page.waitForTimeout(20);
  }
}

/** Marks each control that gets an event; run in the page. */
function noteUse() {
  for (const type of ['click', 'change', 'keydown', 'pointerdown'])
    addEventListener(type, ({target}) => target.closest?.('button, input, select, summary, .handle, canvas')?.setAttribute('data-used', ''), true);
}
/** Fails unless every control of a part was used. */
async function allUsed(page, part) {
  const unused = page.locator(`#${part} :is(button, input, select, summary, .handle, canvas[tabindex="0"]):not([data-used])`);
  assert.deepEqual(await unused.evaluateAll((controls) => controls.map((control) => control.outerHTML)), []);
}

const depthSettings = {data: 'spirals', depth: 6, width: 16, channels: 2, update: 'delta', learningRate: 0.003, batch: 32, seed: 1};

test('the page is ready', async (t) => {
  await onPage(async (page) => {
    const begun = performance.now();
    await page.goto(origin);
    await page.locator('#operator .part:not([aria-busy])').waitFor();
    await page.evaluate(() => new Promise(requestAnimationFrame));
    t.diagnostic(`module loaded, first frame drawn: ${(performance.now() - begun).toFixed(0)} ms`);
  });
  const sizes = ['playground.wasm', 'playground.js'].map((name) => gzipSync(readFileSync(join(site, name)), {level: 9}).length);
  t.diagnostic(`compressed: module ${sizes[0]} bytes, its loader ${sizes[1]} bytes`);
  assert.ok(sizes[0] + sizes[1] < 400_000);
});

test('a page without SIMD says so', () => onPage(async (page) => {
  await page.goto(origin);
  for (const part of ['operator', 'depth', 'time', 'memory']) {
    await open(page, part);
    assert.match(await page.locator(`#${part} .part`).textContent(), /SIMD/);
  }
}, {init: () => { WebAssembly.validate = () => false; }}));

test('the numbers are those of a native run', () => onPage(async (page) => {
  await page.goto(origin);
  const expected = JSON.parse(execFileSync(native, {encoding: 'utf8'}));
  const same = (name, numbers, tolerance) => {
    numbers = Array.from(numbers);
    assert.equal(numbers.length, expected[name].length, name);
    numbers.forEach((x, i) => assert.ok(
      Math.abs(x - expected[name][i]) <= tolerance * Math.max(1, Math.abs(expected[name][i])),
      `${name}, number ${i}: ${x} in the browser, ${expected[name][i]} natively`));
  };
  const call = (part, method, argument) => page.evaluate(async ([name, f, x]) => {
    const {Engine} = await import('./engine.js');
    const engine = await Engine.load(name), result = await engine.call(f, x);
    engine.close();
    return Object.fromEntries(Object.entries(result).map(([key, value]) => [key, ArrayBuffer.isView(value) ? Array.from(value) : value]));
  }, [part, method, argument]);

  const edited = await call('operator', 'edit', {direction: [1, 2, -2], beta: 1.5, value: 0.25, points: [1, 0, 0, 0, 1, 0, 0, 0, 1]});
  same('edit', edited.points, 1e-6);
  for (const data of ['spirals', 'circles', 'xor'])
    for (const update of ['delta', 'write_only', 'additive'])
      same(`${data} ${update}`, (await run(page, 'depth', {...depthSettings, data, update}, 20)).losses, 2e-5);
  for (const task of ['parity', 'S3']) {
    const {losses} = await run(page, 'time', {task, learningRate: 0.01, seed: 1}, 10);
    same(`${task} 1`, losses[0], 2e-5);
    same(`${task} 2`, losses[1], 2e-5);
  }
  const rewound = await call('memory', 'rewind', {depth: 100, width: 16, channels: 4, beta: 1, seed: 1});
  same('rewind', rewound.states.slice(10 * 64, 11 * 64), 2e-5);  // after 10 layers
  assert.equal(rewound.stateBytes, expected.stateBytes);
  assert.equal(rewound.editBytes, expected.editBytes);
  assert.ok(Math.max(...rewound.errors) < 1e-5);
}));

test('the library\'s errors reach the page', () => onPage(async (page) => {
  await page.goto(origin);
  const messages = await page.evaluate(async (settings) => {
    const {Engine} = await import('./engine.js');
    const messages = [], failed = (error) => messages.push(error.message);
    let stopped;
    const stop = new Promise((resolve) => { stopped = resolve; });
    const engine = await Engine.load('depth', {onStop: stopped});
    await engine.reset({...settings, width: 0}).catch(failed);
    await engine.reset({...settings, update: 'none'}).catch(failed);
    await engine.reset({...settings, learningRate: 1e30});
    await engine.start();
    messages.push(await stop);
    await engine.reset(settings);  // and it goes on
    await engine.step();
    engine.close();
    return messages;
  }, depthSettings);
  assert.match(messages[0], /width is 0, expected at least 1/);
  assert.match(messages[1], /update rule is none, expected delta, write_only or additive/);
  assert.match(messages[2], /ddl::fit: .*finite/);
  assert.equal(messages.length, 3);
}));

test('depth: the network learns the spirals', async (t) => {
  await onPage(async (page) => {
    await page.goto(origin);
    await open(page, 'depth');
    assert.ok(await number(page, '#depth [data-out="testLoss"]') > 0.5);
    await page.selectOption('#depth select[name="speed"]', {index: 0});
    await page.click('#depth button[name="run"]');
    const [frames, steps] = await page.evaluate(async () => {
      const step = () => Number(document.querySelector('#depth [data-out="step"]').textContent);
      const begun = performance.now(), first = step();
      let count = 0;
      for (; performance.now() < begun + 2000; ++count) await new Promise(requestAnimationFrame);
      return [count / 2, (step() - first) / 2];
    });
    t.diagnostic(`while it trains at one step a frame: ${frames} frames a second, ${steps} steps a second`);
    await page.click('#depth button[name="run"]');
    const paused = await number(page, '#depth [data-out="step"]');
    await page.selectOption('#depth select[name="speed"]', '0');  // as many as fit
    await page.click('#depth button[name="run"]');
    await reaches(page, '#depth [data-out="step"]', paused + 1000);
    await page.click('#depth button[name="run"]');
    assert.ok(await number(page, '#depth [data-out="testLoss"]') < 0.1);
    assert.ok(await number(page, '#depth [data-out="correct"]') > 98);
  });
});

test('operator: every control by keyboard, the handles also by pointer', () => onPage(async (page) => {
  await page.goto(origin);
  await open(page, 'operator');
  const part = page.locator('#operator'), out = (name) => part.locator(`[data-out="${name}"]`).textContent();
  const says = (name, text) => page.waitForFunction(
    ([what, expected]) => document.querySelector(`#operator [data-out="${what}"]`).textContent.includes(expected), [name, text]);
  const regimes = [['0', 'identity', '1.00'], ['1', 'projection', '0.00'], ['2', 'reflection', '\u22121.00']];
  for (const [beta, regime, determinant] of regimes) {
    await part.locator(`button[data-beta="${beta}"]`).press('Enter');
    await says('regime', regime);
    await says('determinant', determinant);
    assert.ok((await out('along')).includes(determinant));
  }
  await part.locator('input[name="beta"]').press('Home');
  await says('regime', 'identity');
  await part.locator('input[name="value"]').press('End');
  await part.locator('button[data-value="0"]').press('Enter');
  assert.equal(await part.locator('input[name="value"]').inputValue(), '0');
  await part.locator('input[name="view"]').press('ArrowRight');
  for (const handle of await part.locator('.handle').all()) {
    const before = await handle.getAttribute('aria-valuenow');
    await handle.press('ArrowUp');
    await handle.press('ArrowRight');
    await handle.press('ArrowRight');
    await changed(page, handle, (element) => element.getAttribute('aria-valuenow'), before);
    const {x, y, width, height} = await handle.boundingBox(), direction = await out('direction');
    await page.mouse.move(x + width / 2, y + height / 2);
    await page.mouse.down();
    await page.mouse.move(x + width / 2 + 30, y + height / 2 + 25, {steps: 3});
    await page.mouse.up();
    if ((await handle.getAttribute('aria-label')).endsWith('k in the plane'))
      await changed(page, part.locator('[data-out="direction"]'), (element) => element.textContent, direction);
  }
  await allUsed(page, 'operator');
}, {init: noteUse}));

test('depth: every control', () => onPage(async (page) => {
  await page.goto(origin);
  await open(page, 'depth');
  const part = page.locator('#depth'), button = (name) => part.locator(`button[name="${name}"]`);
  const figure = (name) => number(page, `#depth [data-out="${name}"]`);
  const parameters = await figure('parameters');
  await part.locator('summary').press('Enter');
  for (const select of await part.locator('select:not([name="data"])').all()) {
    await select.focus();
    await page.keyboard.press('ArrowDown');
  }
  await part.locator('input[name="seed"]').fill('2');
  await part.locator('input[name="seed"]').press('Tab');
  await page.waitForFunction((old) => Number(document.querySelector('#depth [data-out="parameters"]').textContent) !== old, parameters);
  for (const data of ['circles', 'xor', 'spirals', 'own']) {
    await part.locator('select[name="data"]').selectOption(data);
    await button('step').click();
    await reaches(page, '#depth [data-out="step"]', 1);
    assert.ok(await figure('trainLoss') > 0);
  }
  for (const update of ['additive', 'write_only', 'delta']) {
    await part.locator('select[name="update"]').selectOption(update);
    await button('step').click();
    await reaches(page, '#depth [data-out="step"]', 1);
    await page.waitForFunction((rule) => document.querySelector('#depth pre code').textContent.includes(rule), `UpdateRule::${update}}`);
  }
  const picture = part.locator('canvas[data-canvas="regions"]');
  await button('clear').click();
  await part.locator('button[name="run"]:disabled').waitFor();
  await picture.click({position: {x: 50, y: 60}});
  await part.locator('input[name="class"][value="1"]').check();
  await picture.click({position: {x: 200, y: 160}});
  await part.locator('input[name="class"][value="0"]').check();
  await picture.press('ArrowLeft');
  await picture.press('Space');
  await button('undo').click();
  await page.waitForFunction(() => document.querySelector('#depth pre code').textContent.includes('labels = {0, 1}'));
  await button('run').click();
  await reaches(page, '#depth [data-out="step"]', 20);
  await button('run').click();
  await button('reset').click();
  await page.waitForFunction(() => document.querySelector('#depth [data-out="step"]').textContent === '0');
  await button('copy').click();
  assert.match(await page.evaluate(() => navigator.clipboard.readText()), /ddl::DeltaResNet/);
  await allUsed(page, 'depth');
}, {init: noteUse, permissions: ['clipboard-read', 'clipboard-write']}));

test('time: beta below 2 learns to track states, beta below 1 does not; every control', (t) => onPage(async (page) => {
  await page.goto(origin);
  await open(page, 'time');
  const part = page.locator('#time'), button = (name) => part.locator(`button[name="${name}"]`);
  const last = (i) => number(page, `#time [data-out="last${i}"]`);
  await part.locator('select[name="learningRate"]').selectOption({index: 0});
  await part.locator('select[name="learningRate"]').selectOption('0.01');
  await part.locator('input[name="seed"]').fill('2');
  await part.locator('input[name="seed"]').fill('1');
  await part.locator('input[name="seed"]').press('Tab');
  for (const [task, guessing] of [['parity', 50], ['S3', 100 / 6]]) {
    await part.locator('select[name="task"]').selectOption(task);
    await button('step').click();
    await reaches(page, '#time [data-out="step"]', 1);
    await button('run').click();
    await reaches(page, '#time [data-out="step"]', 20);
    await button('run').click();  // a pause
    await button('run').click();
    const begun = performance.now();
    await page.waitForFunction(() => document.querySelector('#time button[name="run"]').textContent === 'Finished', null, {timeout: 60_000});
    t.diagnostic(`${task}: ${((performance.now() - begun) / 1000).toFixed(1)} s; right at the last token with beta below 1: ` +
      `${await last(0)} %, below 2: ${await last(1)} %`);
    assert.ok(await last(0) < guessing + 25, task);
    assert.ok(await last(1) > (task === 'parity' ? 98 : 70), task);
  }
  await button('reset').click();
  await page.waitForFunction(() => document.querySelector('#time [data-out="step"]').textContent.startsWith('0 of'));
  await allUsed(page, 'time');
}, {init: noteUse}));

test('memory: the states are recovered; every control', () => onPage(async (page) => {
  await page.goto(origin);
  await open(page, 'memory');
  const part = page.locator('#memory'), layer = part.locator('input[name="layer"]');
  const largest = async () => (await part.locator('[data-out="largest"]').textContent()).match(/10(.*)/)[1];
  assert.match(await largest(), /^⁻[⁶⁷]$/);
  for (const name of ['depth', 'width', 'channels', 'beta']) {
    const bytes = part.locator('[data-out="stateBytes"]'), old = await bytes.textContent();
    await part.locator(`select[name="${name}"]`).press('ArrowDown');
    if (name !== 'beta') await changed(page, bytes, (element) => element.textContent, old);  // beta changes the states alone
  }
  await part.locator('input[name="seed"]').fill('3');
  await part.locator('input[name="seed"]').press('Tab');
  await part.locator('button[name="rewind"]').click();
  await page.waitForFunction(() => document.querySelector('#memory input[name="layer"]').value === '0');
  await layer.press('ArrowRight');
  assert.equal(await layer.inputValue(), '1');
  assert.match(await largest(), /^⁻[⁵⁶⁷]$/);
  await allUsed(page, 'memory');
}, {init: noteUse}));

test('pictures of the page at two widths, light and dark', (t) => Promise.all([390, 1280].flatMap((width) => ['light', 'dark'].map(
  (colorScheme) => onPage(async (page) => {
    await page.goto(origin);
    for (const part of ['operator', 'depth', 'time', 'memory']) await open(page, part);
    await page.click('#depth button[name="run"]');
    await page.click('#time button[name="run"]');
    await reaches(page, '#depth [data-out="step"]', 150);
    await reaches(page, '#time [data-out="step"]', 60);
    await page.click('#depth button[name="run"]');
    await page.click('#time button[name="run"]');
    const overflow = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
    assert.ok(overflow <= 0, `the page is ${overflow} pixels wider than a window of ${width}`);
    const path = `page-${width}-${colorScheme}.png`;
    await page.screenshot({path, fullPage: true});
    t.diagnostic(path);
  }, {viewport: {width, height: 900}, colorScheme})))));
