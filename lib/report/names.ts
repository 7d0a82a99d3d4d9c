/**
 * lib/report: where in a model a linear is, from its name alone: the block, and the kind that repeats in every block. Experts of one layer are one kind.
 */

export interface Place {
  /** From 0; undefined outside blocks, such as for an output head. */
  readonly block: number | undefined;
  /** "self_attn.q_proj"; "mlp.experts.*.up_proj" for all experts; the name itself outside blocks. */
  readonly kind: string;
}

/** "model.layers.3.mlp.experts.17.up_proj" -> block 3, kind "mlp.experts.*.up_proj". The first number of a name is the block's. */
export function placeOf(name: string): Place {
  const parts = name.split('.');
  const index = parts.findIndex((part) => /^\d{1,6}$/.test(part));
  if (index < 0 || index === parts.length - 1) return { block: undefined, kind: name };
  const rest = parts.slice(index + 1).map((part) => (/^\d+$/.test(part) ? '*' : part));
  return { block: Number(parts[index]), kind: rest.join('.') };
}

/** For each kind the last words of it that no other kind ends in, as a person would call it: "q_proj". */
export function shortNames(kinds: readonly string[]): ReadonlyMap<string, string> {
  const tail = (kind: string, words: number): string => kind.split('.').slice(-words).join('.');
  return new Map(
    kinds.map((kind) => {
      const most = kind.split('.').length;
      for (let words = 1; words < most; words++) {
        const short = tail(kind, words);
        if (short.includes('*') || kinds.filter((other) => tail(other, words) === short).length > 1) continue;
        return [kind, short];
      }
      return [kind, kind];
    }),
  );
}
