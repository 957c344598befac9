export const name = "modules are loaded";
