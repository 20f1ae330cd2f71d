// A photo from a file or the camera travels to the server inside the event, as a data URL: no upload route, no file on the server.
const MAX_BYTES = 32 * 1024 * 1024;
const find = (selector) => element.querySelector(selector);
const [stage, image, video, input, status] = [".stage", "img", "video", "input", ".status"].map(find);
let stream = null;
let shown = null;

function say(text, bad = false) {
  status.textContent = text;
  status.classList.toggle("bad", bad);
}

function show(what) {
  image.hidden = what !== "image";
  video.hidden = what !== "video";
  find(".invitation").hidden = what !== "invitation";
  stage.classList.toggle("filled", what !== "invitation");
  for (const [name, whenOn] of [["choose", false], ["camera", false], ["take", true], ["stop", true]]) {
    find("." + name).hidden = (what === "video") !== whenOn;
  }
}

function stopCamera() {
  if (stream) stream.getTracks().forEach((track) => track.stop());
  stream = null;
  video.srcObject = null;
}

function classify(blob) {
  if (blob.size > MAX_BYTES) return say("The photo is larger than 32 MB. Choose a smaller one.", true);
  if (shown) URL.revokeObjectURL(shown);
  shown = URL.createObjectURL(blob);
  image.src = shown;
  show("image");
  say("");
  const reader = new FileReader();
  reader.onload = () => trigger("submit", { photo: reader.result });
  reader.onerror = () => say("The photo could not be read.", true);
  reader.readAsDataURL(blob);
}

async function startCamera() {
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "user" }, audio: false });
    video.srcObject = stream;
    await video.play();
    show("video");
    say("Look into the camera, then take the photo.");
  } catch (error) {
    stopCamera();
    say("The camera cannot be used: " + (error.message || error.name) + ". Allow it in the browser, or choose a photo.", true);
  }
}

function takePhoto() {
  const canvas = document.createElement("canvas");
  canvas.width = video.videoWidth;
  canvas.height = video.videoHeight;
  canvas.getContext("2d").drawImage(video, 0, 0);
  stopCamera();
  canvas.toBlob(classify, "image/png");
}

function choose() {
  if (!stream) input.click();
}

image.addEventListener("error", () => show("invitation"));
find(".choose").addEventListener("click", choose);
stage.addEventListener("click", choose);
stage.addEventListener("keydown", (event) => { if (event.key === "Enter" || event.key === " ") choose(); });
find(".camera").addEventListener("click", startCamera);
find(".take").addEventListener("click", takePhoto);
find(".stop").addEventListener("click", () => { stopCamera(); show(shown ? "image" : "invitation"); say(""); });
input.addEventListener("change", () => { if (input.files.length) classify(input.files[0]); input.value = ""; });
stage.addEventListener("dragover", (event) => { event.preventDefault(); stage.classList.add("over"); });
stage.addEventListener("dragleave", () => stage.classList.remove("over"));
stage.addEventListener("drop", (event) => {
  event.preventDefault();
  stage.classList.remove("over");
  if (event.dataTransfer.files.length && !stream) classify(event.dataTransfer.files[0]);
});
show("invitation");
