// Noise levels: α and σ of a log-SNR, by the kind of the path.

/** α and σ of a log-SNR log(α²/σ²). −Infinity is pure noise, +Infinity the clean sample. */
export function levelOf(logSNR, kind) {
  const half = logSNR / 2;
  if (kind === "preserving") return { alpha: 1 / Math.sqrt(1 + Math.exp(-logSNR)), sigma: 1 / Math.sqrt(1 + Math.exp(logSNR)), half };
  if (kind === "straight") return { alpha: 1 / (1 + Math.exp(-half)), sigma: 1 / (1 + Math.exp(half)), half };
  if (kind === "exploding") return { alpha: 1, sigma: Math.exp(-half), half };
  throw new Error(`α and σ of a path of kind "${kind}" are not known from its log-SNR`);
}

/** The levels as numbers of noise to signal fall? Returns the index of the first pair out of order, or −1. */
export function firstOutOfOrder(logSNRs) {
  for (let i = 1; i < logSNRs.length; i++) if (!(logSNRs[i] > logSNRs[i - 1])) return i - 1;
  return -1;
}
