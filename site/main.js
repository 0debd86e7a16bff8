// SPDX-License-Identifier: MIT
/** @file Builds the parts of the page. A part gets its worker when it comes near the window for the first time. */
import {Engine, hasSimd} from './engine.js';

/** Shows a message in place of a part. */
function refuse(element, message) {
  const paragraph = document.createElement('p');
  paragraph.className = 'error';
  paragraph.textContent = message;
  element.replaceChildren(paragraph);
}

/** Resolves when the element comes near the window. */
const seen = (element) => new Promise((resolve) => {
  const observer = new IntersectionObserver(([entry]) => {
    if (!entry.isIntersecting) return;
    observer.disconnect();
    resolve();
  }, {rootMargin: '300px'});
  observer.observe(element);
});

/** Builds the part of a section. The element is busy until the part's module is loaded. */
async function build(section) {
  const element = section.querySelector('.part');
  try {
    const part = await import(`./${section.id}.js`);
    await part.mount(element, (handlers) => seen(element).then(() => Engine.load(section.id, handlers)));
  } catch (error) {
    refuse(element, `This part could not be started: ${error.message}`);
  }
  element.removeAttribute('aria-busy');
}

for (const section of document.querySelectorAll('main section')) {
  if (hasSimd()) {
    build(section);
  } else {
    const element = section.querySelector('.part');
    refuse(element, 'This part needs a browser that runs WebAssembly with SIMD: Chrome or Edge 95, Firefox 100, Safari 16.4, or newer.');
    element.removeAttribute('aria-busy');
  }
}
