// What the component exports. The plugin itself is plugin.js, which unit tests load without this.
import log from "ovhost:plugin/log@0.1.0";

import { component } from "./ovhost/component.js";
import { NearTemplate } from "./plugin.js";

export const { lifecycle, filter } = component(log, NearTemplate);
