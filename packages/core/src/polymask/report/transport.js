// Plays frames, stops, and goes to one: the page has a button and a slider of its own.
const button = document.querySelector("button"), slider = document.querySelector("input[type=range]");
let frame = 0, playing = !matchMedia("(prefers-reduced-motion: reduce)").matches, then = 0;

function transport(frames, rate, draw) {
  const show = () => { draw(); slider.value = frame; };
  const play = (on) => { playing = on; button.textContent = on ? "pause" : "play"; };
  const tick = (now) => {
    if (playing && now - then > 1000 / rate) {
      then = now;
      frame = (frame + 1) % frames;
      show();
    }
    requestAnimationFrame(tick);
  };
  slider.max = frames - 1;
  button.onclick = () => play(!playing);
  slider.oninput = () => { play(false); frame = +slider.value; show(); };
  play(playing);
  show();
  requestAnimationFrame(tick);
}
