/**
 * Keeps conversations on this device, in IndexedDB; where there is none, until the tab is closed.
 *
 * Titles are kept apart from the conversations, so that the list needs no more than the list.
 */

/** @typedef {import('./conversation.js').Conversation} Conversation */
/** @typedef {{id: string, title: string, changed: number}} Title */

const TITLES = 'titles';
const CONVERSATIONS = 'conversations';

/** @type {Promise<IDBDatabase> | null} */
let opening = null;

/** Other tabs are told, so that their lists follow. */
const tabs = new BroadcastChannel('edgereason');

/** @param {() => void} follow */
export const onOtherTab = (follow) => tabs.addEventListener('message', follow);

/** @returns {Promise<IDBDatabase>} */
function database() {
  opening ??= new Promise((resolve, reject) => {
    const request = indexedDB.open('edgereason', 1);
    request.onupgradeneeded = () => {
      request.result.createObjectStore(TITLES, { keyPath: 'id' });
      request.result.createObjectStore(CONVERSATIONS, { keyPath: 'id' });
    };
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
  return opening;
}

/**
 * @template T
 * @param {string[]} stores @param {IDBTransactionMode} mode
 * @param {(transaction: IDBTransaction) => IDBRequest<any> | void} work
 * @returns {Promise<T>} what the request that `work` returned found, once everything is written
 */
async function transact(stores, mode, work) {
  const transaction = (await database()).transaction(stores, mode);
  const request = work(transaction);
  return new Promise((resolve, reject) => {
    transaction.oncomplete = () => resolve(request ? request.result : undefined);
    transaction.onabort = () => reject(transaction.error);
  });
}

/** @returns {Promise<Title[]>} newest first */
export async function titles() {
  const found = await transact([TITLES], 'readonly', (work) => work.objectStore(TITLES).getAll());
  return found.sort((one, other) => other.changed - one.changed);
}

/** @param {string} id @returns {Promise<Conversation | undefined>} */
export const load = (id) =>
  transact([CONVERSATIONS], 'readonly', (work) => work.objectStore(CONVERSATIONS).get(id));

/** @returns {Promise<Conversation[]>} */
export const loadAll = () =>
  transact([CONVERSATIONS], 'readonly', (work) => work.objectStore(CONVERSATIONS).getAll());

/** @param {Conversation} conversation */
export async function save(conversation) {
  const { id, title, changed } = conversation;
  await transact([TITLES, CONVERSATIONS], 'readwrite', (work) => {
    work.objectStore(TITLES).put({ id, title, changed });
    work.objectStore(CONVERSATIONS).put(conversation);
  });
  tabs.postMessage('changed');
}

/** @param {string} id */
export async function remove(id) {
  await transact([TITLES, CONVERSATIONS], 'readwrite', (work) => {
    work.objectStore(TITLES).delete(id);
    work.objectStore(CONVERSATIONS).delete(id);
  });
  tabs.postMessage('changed');
}

export async function removeAll() {
  await transact([TITLES, CONVERSATIONS], 'readwrite', (work) => {
    work.objectStore(TITLES).clear();
    work.objectStore(CONVERSATIONS).clear();
  });
  tabs.postMessage('changed');
}
