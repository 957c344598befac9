import { name } from "./imported.js?v=1";
document.title = name;
