/**
 * What every checkpoint reader yields: a typed tensor table over mapped files, a configuration and a tokenizer.
 * Headers are parsed and checked here, in the memory-safe language; the engine maps the bytes and checks offsets again.
 */

/** A row of the tensor table. `shape` is in PyTorch order (outermost first), also for GGUF. */
export interface TensorEntry {
  readonly name: string;
  readonly file: number; // index into Checkpoint.files
  readonly dtype: string; // a name of cpp/base/dtype.def: F32 F16 BF16 I32 ... Q4_0 Q6_K
  readonly shape: readonly number[];
  readonly offset: number; // bytes from the start of the file, a safe integer
  readonly bytes: number;
}

export interface Checkpoint {
  readonly kind: 'hf' | 'gguf';
  /** As the user gave it: a directory or a .gguf file. */
  readonly path: string;
  /** Absolute paths of the files that hold tensors. */
  readonly files: readonly string[];
  readonly tensors: readonly TensorEntry[];
  /**
   * Hugging Face configuration. For GGUF it is rebuilt from the metadata in config.json's own keys (model_type,
   * hidden_size, rope_parameters, ...), so that lib/models and the writers see one form.
   */
  readonly config: Readonly<Record<string, unknown>>;
  /**
   * tokenizer.json as parsed JSON (GGUF: rebuilt from the metadata); undefined when the directory has none. Where a vocabulary is rebuilt, model.vocab
   * is a Map from token to id: as an object, 100,000 tokens take a tenth of a second that nobody but a writer needs.
   */
  readonly tokenizerJson: Readonly<Record<string, unknown>> | undefined;
  /** tokenizer_config.json likewise (bos_token, eos_token, add_bos_token, chat_template, ...). */
  readonly tokenizerConfig: Readonly<Record<string, unknown>>;
  /** The chat template in Jinja, from chat_template.jinja, tokenizer_config.json or the GGUF metadata. */
  readonly chatTemplate: string | undefined;
  /** generation_config.json, {} when absent. */
  readonly generationConfig: Readonly<Record<string, unknown>>;
  /** GGUF only: llama-family files store q/k rows permuted and Gemma norms as 1 + w. */
  readonly conventions: { readonly ropePermuted: boolean; readonly normPlusOneStored: boolean };
  /** Maps a Hugging Face tensor name to the table; for GGUF through the name table of the architecture. Undefined when absent. */
  find(hfName: string): number | undefined;
}
