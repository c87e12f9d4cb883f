// Prints what Node's fs.watch tells of the directory that is named, and of live/token in it.
const { watch } = require("fs");

for (const path of [process.argv[2], process.argv[2] + "/live/token"]) {
    watch(path, (event, name) => console.log(event, name));
}
console.log("ready");
