/** Objects of the page that work inside a Proxy, as Vue and other libraries make them. */

/** The key of a function that returns the object itself. A Proxy may not replace its value, because it is read-only. */
const SELF = Symbol("self");

/** Let the methods and accessors of `object` find it. Call this in the constructor. */
export function bindSelf(object) {
  Object.defineProperty(object, SELF, { value: () => object });
}

/**
 * Make every public method and accessor of `Class` run on the object itself, also if it is called on a Proxy.
 *
 * A Proxy has no access to private fields (#…). Methods with a symbol as their name are left as they are.
 */
export function makeProxySafe(Class) {
  const members = Object.getOwnPropertyDescriptors(Class.prototype);
  delete members.constructor;
  for (const member of Object.values(members)) {
    for (const [kind, call] of Object.entries(member)) {
      if (typeof call !== "function") continue;
      member[kind] = function (...args) {
        return call.apply(this[SELF](), args);
      };
    }
  }
  Object.defineProperties(Class.prototype, members);
}
