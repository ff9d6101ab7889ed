// Batches of images, dark ink on light paper as everywhere in the library.

const GAP = 1;

/** Draw a batch (count, channels, height, width) with values from −1 to 1 side by side; 1 is ink where there is one channel. */
export function drawBatch(canvas, values, shape, count) {
  const [channels, height, width] = shape, size = channels * height * width, scale = Math.max(1, Math.round(96 / height));
  const columns = count, context = prepared(canvas, columns * (width + GAP) - GAP, height);
  const image = context.createImageData(canvas.width, canvas.height);
  image.data.fill(0);
  for (let i = 0; i < count; i++) {
    for (let r = 0; r < height; r++) {
      for (let c = 0; c < width; c++) {
        const at = (r * canvas.width + i * (width + GAP) + c) * 4;
        for (let channel = 0; channel < 3; channel++) {
          const value = values[i * size + (channels === 3 ? channel : 0) * height * width + r * width + c];
          const unit = Math.min(1, Math.max(0, (value + 1) / 2));
          image.data[at + channel] = 255 * (channels === 3 ? unit : 1 - unit);
        }
        image.data[at + 3] = 255;
      }
    }
  }
  context.putImageData(image, 0, 0);
  canvas.style.setProperty("--scale", scale);
}

/** Draw the difference of two batches: blue where there is less ink, orange where there is more, paper where they agree. */
export function drawDifference(canvas, values, other, shape, count) {
  const [channels, height, width] = shape, size = channels * height * width;
  const context = prepared(canvas, count * (width + GAP) - GAP, height), image = context.createImageData(canvas.width, canvas.height);
  for (let i = 0; i < count; i++) {
    for (let r = 0; r < height; r++) {
      for (let c = 0; c < width; c++) {
        let sum = 0;
        for (let channel = 0; channel < channels; channel++) {
          const place = i * size + channel * height * width + r * width + c;
          sum += (values[place] - other[place]) / channels;
        }
        const at = (r * canvas.width + i * (width + GAP) + c) * 4;
        colour(Math.max(-1, Math.min(1, sum))).forEach((part, channel) => { image.data[at + channel] = part; });
        image.data[at + 3] = 255;
      }
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

function prepared(canvas, width, height) {
  canvas.width = width;
  canvas.height = height;
  return canvas.getContext("2d");
}
