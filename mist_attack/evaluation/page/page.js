"use strict";
// The slider, or a drag on the picture, shows the protected picture to the right; the loupe follows the pointer or the
// arrow keys.
for (const figure of document.querySelectorAll("figure[data-compare]")) {
  const box = figure.querySelector(".compare");
  const slider = figure.querySelector("input");
  const [before, after] = box.querySelectorAll("img");
  const glasses = figure.querySelectorAll(".loupe div");
  const zoom = 4;
  let x = 0.5;
  let y = 0.5;
  const cut = () => {
    box.style.setProperty("--cut", slider.value + "%");
    slider.setAttribute("aria-valuetext", slider.value + " % of the original");
  };
  const look = () => {
    [before, after].forEach((image, i) => {
      const glass = glasses[i];
      const width = image.naturalWidth * zoom;
      const height = image.naturalHeight * zoom;
      glass.style.backgroundImage = "url(" + image.src + ")";
      glass.style.backgroundSize = width + "px " + height + "px";
      glass.style.backgroundPosition =
        glass.clientWidth / 2 - x * width + "px " + (glass.clientHeight / 2 - y * height) + "px";
    });
  };
  const move = (event) => {
    const area = box.getBoundingClientRect();
    x = Math.min(1, Math.max(0, (event.clientX - area.left) / area.width));
    y = Math.min(1, Math.max(0, (event.clientY - area.top) / area.height));
    if (event.buttons) {
      slider.value = Math.round(x * 100);
      cut();
    }
    look();
  };
  slider.addEventListener("input", cut);
  box.addEventListener("pointermove", move);
  box.addEventListener("pointerdown", (event) => {
    box.setPointerCapture(event.pointerId);
    move(event);
  });
  box.addEventListener("dragstart", (event) => event.preventDefault());
  box.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (!step) return;
    event.preventDefault();
    x = Math.min(1, Math.max(0, x + step[0] * 0.02));
    y = Math.min(1, Math.max(0, y + step[1] * 0.02));
    look();
  });
  addEventListener("resize", look);
  addEventListener("load", look);
  cut();
}
