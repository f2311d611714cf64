// Arrays that `jaxheads.view.arrays.packed` wrote: {shape, bits, low, high, power, deflated, data}.

function bytesOf(base64) {
  const text = atob(base64);
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  return bytes;
}

function decoded(packed, bytes) {
  const { shape, bits, low, high, power = 1 } = packed;
  if (bits === 32) return { shape, values: new Float32Array(bytes.buffer, 0, bytes.byteLength / 4) };
  const codes = bits === 16 ? new Uint16Array(bytes.buffer, 0, bytes.byteLength / 2) : bytes;
  const last = 2 ** bits - 2; // the code above it is NaN
  const table = bits === 8 ? new Float32Array(256) : null;
  const value = (code) => (code > last ? NaN : low + (high - low) * (code / last) ** power);
  if (table) for (let code = 0; code < 256; code++) table[code] = value(code);
  const values = new Float32Array(codes.length);
  for (let i = 0; i < codes.length; i++) values[i] = table ? table[codes[i]] : value(codes[i]);
  return { shape, values };
}

// The array at once: {shape, values}. A deflated one needs `unpacked`.
export function unpack(packed) {
  if (packed.deflated) throw new Error("a deflated array is unpacked by `await unpacked(…)`");
  return decoded(packed, bytesOf(packed.data));
}

// The array, deflated or not, as a promise.
export async function unpacked(packed) {
  let bytes = bytesOf(packed.data);
  if (packed.deflated) {
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
    bytes = new Uint8Array(await new Response(stream).arrayBuffer());
  }
  return decoded(packed, bytes);
}

// Least and largest finite value; [0, 1] where there is none.
export function extent(values) {
  let low = Infinity, high = -Infinity;
  for (const value of values) {
    if (!Number.isFinite(value)) continue;
    if (value < low) low = value;
    if (value > high) high = value;
  }
  return low <= high ? [low, high] : [0, 1];
}
