// SPDX-License-Identifier: MIT
/** @file Mounts each part of the page when it comes near the window, each with a worker of its own. */
import {Engine, hasSimd} from './engine.js';

/** Shows a message in place of a part. */
function refuse(element, message) {
  const paragraph = document.createElement('p');
  paragraph.className = 'error';
  paragraph.textContent = message;
  element.replaceChildren(paragraph);
}

/** Mounts the part of a section. The element is busy until the part's module is loaded. */
async function mount(section) {
  const element = section.querySelector('.part');
  try {
    const part = await import(`./${section.id}.js`);
    await part.mount(element, (handlers) => Engine.load(section.id, handlers));
  } catch (error) {
    refuse(element, `This part could not be started: ${error.message}`);
  }
  element.removeAttribute('aria-busy');
}

const sections = document.querySelectorAll('main section');
if (hasSimd()) {
  const observer = new IntersectionObserver((entries) => {
    for (const {target} of entries.filter((entry) => entry.isIntersecting)) {
      observer.unobserve(target);
      mount(target);
    }
  }, {rootMargin: '300px'});
  sections.forEach((section) => observer.observe(section));
} else {
  for (const section of sections) {
    const element = section.querySelector('.part');
    refuse(element, 'This part needs a browser that runs WebAssembly with SIMD: Chrome or Edge 95, Firefox 100, Safari 16.4, or newer.');
    element.removeAttribute('aria-busy');
  }
}
