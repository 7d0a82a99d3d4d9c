/** hub: what the public functions that take a model's name accept, and how it is checked. */
import { abortSignal, boolean, callback, nested, pathString, string } from '../options';

/** State of a download. Comes some 20 times a second, and at the end of every file. */
export interface HubProgress {
  /** File of the repository that is being fetched. */
  readonly file: string;
  /** Bytes of all files to fetch that are on the disk, those of an earlier attempt included, and their sum. */
  readonly done: number;
  readonly total: number;
}

/** How models named `hf:owner/name` are found. */
export interface HubOptions {
  /** Use the cache only and open no connection. Default: whether LOWBIT_OFFLINE or HF_HUB_OFFLINE is set. */
  readonly offline?: boolean;
  /** Folder of the cache. Default: HF_HUB_CACHE, or <HF_HOME>/hub, or ~/.cache/huggingface/hub: the one of Hugging Face's Python tools. */
  readonly cacheDir?: string;
  /** Address of the hub. Default: HF_ENDPOINT, or https://huggingface.co. */
  readonly endpoint?: string;
  /** Access token, "" for none. Default: HF_TOKEN, or the one that `hf auth login` stored. Sent to the endpoint only. */
  readonly token?: string;
  /** Called while files are fetched. */
  readonly onProgress?: (progress: HubProgress) => void;
}

export interface PullOptions extends HubOptions {
  /** Abort: the promise rejects with CANCELLED; what was fetched stays for the next attempt. */
  readonly signal?: AbortSignal;
}

const hubRules = {
  offline: boolean,
  cacheDir: pathString,
  endpoint: string,
  token: string,
  onProgress: callback<(progress: HubProgress) => void>(),
};

export const pullRules = { ...hubRules, signal: abortSignal };

/** The option `hub` of functions that have others. */
export const hubOption = nested(hubRules);
