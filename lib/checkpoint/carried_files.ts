/**
 * checkpoint: the small files beside the weights of a Hugging Face directory that belong to a model: tokenizer, template, generation settings,
 * licence. What a download fetches and what compression carries over; never weights, never code.
 */
export const carriedFiles: readonly string[] = [
  'tokenizer.json',
  'tokenizer_config.json',
  'special_tokens_map.json',
  'added_tokens.json',
  'tokenizer.model',
  'spiece.model',
  'vocab.json',
  'vocab.txt',
  'merges.txt',
  'chat_template.jinja',
  'chat_template.json',
  'generation_config.json',
  'LICENSE',
  'LICENSE.md',
  'LICENSE.txt',
  'NOTICE',
  'NOTICE.txt',
  'USE_POLICY.md',
];
