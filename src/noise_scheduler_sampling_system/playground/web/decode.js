// Arrays of numbers from the short texts that numbers.py writes.

function bytesOf(text) {
  const raw = atob(text), bytes = new Uint8Array(raw.length);
  for (let i = 0; i < raw.length; i++) bytes[i] = raw.charCodeAt(i);
  return bytes;
}

/** Bytes of a base64 text. */
export function decodeBytes(text) {
  return bytesOf(text);
}

/** Numbers of which the upper 48 bits of the float64 are written. */
export function decodeNumbers(text) {
  const short = bytesOf(text), count = short.length / 6, wide = new Uint8Array(8 * count);
  for (let i = 0; i < count; i++) wide.set(short.subarray(6 * i, 6 * i + 6), 8 * i + 2);
  return new Float64Array(wide.buffer);
}

/** Numbers written as float32. */
export function decodeSingle(text) {
  return new Float32Array(bytesOf(text).buffer);
}
