// Batches of images, dark ink on light paper as everywhere in the library.

const GAP = 1;
/** A canvas narrower than this shows a batch in two lines. */
const NARROW = 440;

/** Draw a batch (count, channels, height, width) with values from −1 to 1; 1 is ink where there is one channel. */
export function drawBatch(canvas, values, shape, count) {
  const [channels, height, width] = shape, plane = height * width;
  draw(canvas, shape, count, (i, pixel) => {
    const part = channel => Math.min(1, Math.max(0, (values[(i * channels + channel) * plane + pixel] + 1) / 2));
    return channels === 3 ? [0, 1, 2].map(channel => 255 * part(channel)) : new Array(3).fill(255 * (1 - part(0)));
  });
}

/** Draw the difference of two batches: blue where there is less ink, orange where there is more, paper where they agree. */
export function drawDifference(canvas, values, other, shape, count) {
  const [channels, height, width] = shape, plane = height * width;
  draw(canvas, shape, count, (i, pixel) => {
    let sum = 0;
    for (let channel = 0; channel < channels; channel++) {
      const at = (i * channels + channel) * plane + pixel;
      sum += (values[at] - other[at]) / channels;
    }
    return colour(Math.max(-1, Math.min(1, sum)));
  });
}

/** Draw a batch side by side, with the colour of each pixel of each image. */
function draw(canvas, shape, count, colourOf) {
  const [, height, width] = shape, columns = canvas.clientWidth > 0 && canvas.clientWidth < NARROW ? Math.ceil(count / 2) : count;
  canvas.width = columns * (width + GAP) - GAP;
  canvas.height = Math.ceil(count / columns) * (height + GAP) - GAP;
  const context = canvas.getContext("2d"), image = context.createImageData(canvas.width, canvas.height);
  for (let i = 0; i < count; i++) {
    const left = (i % columns) * (width + GAP), top = Math.floor(i / columns) * (height + GAP);
    for (let pixel = 0; pixel < height * width; pixel++) {
      const at = ((top + Math.floor(pixel / width)) * canvas.width + left + pixel % width) * 4;
      image.data.set([...colourOf(i, pixel), 255], at);
    }
  }
  context.putImageData(image, 0, 0);
}

const LESS = [31, 95, 168], MORE = [200, 90, 10], PAPER = [246, 246, 244];

/** The colour of a number from −1 to 1: blue below 0, orange above. */
export function colour(value) {
  const towards = value < 0 ? LESS : MORE, share = Math.abs(value) ** 0.6;
  return PAPER.map((part, i) => part + (towards[i] - part) * share);
}
