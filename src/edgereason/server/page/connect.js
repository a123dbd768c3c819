/**
 * Finds out what the server is; asks again by itself while it can't be reached.
 */
import * as api from './api.js';
import { changed, state } from './state.js';

const RETRY_MS = 2_000;
let retry = 0;

/** @returns {Promise<boolean>} whether the server answers us */
export async function connect() {
  clearTimeout(retry);
  try {
    state.info = await api.info();
    state.problem = '';
    if (state.dialog === 'key') state.dialog = '';
  } catch (error) {
    state.problem = error.status === 401 ? 'key' : error.code === 'loading' ? 'loading' : 'unreachable';
    if (state.problem === 'key') state.dialog = 'key';
    else retry = setTimeout(connect, RETRY_MS);
  }
  changed();
  return state.problem === '';
}
