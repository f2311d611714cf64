// Patterns between words, and between parts of a pair.

function groups(words) {
  const starts = [];
  words.forEach((word, at) => {
    if (at === 0 || word < 0 || word !== words[at - 1]) starts.push(at);
  });
  return starts.map((start, index) => [start, starts[index + 1] ?? words.length]);
}

// Sums over the keys of a word, means over its queries (Clark et al. 2019); special tokens stay by themselves.
export function pooled({ values, queries, keys, parts }, words) {
  const rows = groups(words.queries), columns = groups(words.keys), sums = new Float32Array(rows.length * columns.length);
  rows.forEach(([from, to], row) => columns.forEach(([left, right], column) => {
    let sum = 0;
    for (let query = from; query < to; query++)
      for (let key = left; key < right; key++) sum += values[query * keys.length + key];
    sums[row * columns.length + column] = sum / (to - from);
  }));
  const joined = (texts, own) => own.map(([from, to]) => texts.slice(from, to).join(""));
  const firsts = (names, own) => names && own.map(([from]) => names[from]);
  return {
    values: sums, queries: joined(queries, rows), keys: joined(keys, columns),
    parts: { queries: firsts(parts.queries, rows), keys: firsts(parts.keys, columns) },
  };
}

// Weights from queries of one part to keys of another; all others are 0.
export function within({ values, queries, keys, parts }, [from, to]) {
  return values.map((value, at) => {
    const query = Math.floor(at / keys.length), key = at % keys.length;
    return parts.queries[query] === from && parts.keys[key] === to ? value : 0;
  });
}

// What one query gives all keys, or with `backwards` what all queries give one key.
export function weights({ values, queries, keys }, index, backwards) {
  return backwards ? Float32Array.from(queries, (_, query) => values[query * keys.length + index])
    : values.slice(index * keys.length, (index + 1) * keys.length);
}

// The largest weights of a token in words: "“ sat” looks at “ cat” .62, “ The” .21".
export function largest(list, texts, words, count = 4) {
  return [...list.keys()].filter((at) => list[at] > 0.005).sort((one, other) => list[other] - list[one]).slice(0, count)
    .map((at) => `“${texts[at]}” ${words(list[at])}`);
}
