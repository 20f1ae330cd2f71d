// The page over the service's API. A photo is sent as one request to /v1/predict; nothing is stored in the browser either.
"use strict";

const TEXTS = {
  en: {
    title: "Mask, gender, age",
    introduction: "Take a portrait or choose one, and see what the classifier says of it. The photo is looked at once and kept nowhere.",
    introductionTogether: "Take a portrait or choose one, and see what {n} classifiers, their probabilities averaged, say of it. The photo is looked at once and kept nowhere.",
    photo: "Photo", answer: "Answer", drop: "Drop a portrait here", orChoose: "or choose one, paste one, or take one with the camera",
    choose: "Choose a photo", camera: "Use the camera", take: "Take the photo", stop: "Camera off",
    look: "Look into the camera, then take the photo.", examples: "Or try a drawn face", example: "Drawn face {n}", yourPhoto: "The photo that was classified",
    waiting: "Waiting for a photo.", busyNow: "Looking at the photo …", likely: "Most likely {name} ({percent})", decided: "{name} ({percent}). Another answer is likelier, but rare ones count as much as frequent ones.", notSure: "Not sure: the best answer has only {percent}", nothing: "There is no answer for this photo.",
    noFace: "No face was found in the photo. The classifier answers for anything, so this answer may mean nothing. (Masks hide some faces from the detector.)",
    manyFaces: "{n} faces were found. The classifier gives one answer for the whole photo, so it may be about any of them.",
    largestFace: "{n} faces were found. The photo was cut to the largest one in its middle, and the answer is about that.",
    likelyAnyway: "If there is a face, most likely {name} ({percent})",
    explain: "Show where the evidence lies", explaining: "Looking for the evidence …", hide: "Hide the evidence",
    evidence: "The photo as the classifier sees it; red marks where the evidence for the answer lies",
    evidenceNote: "Red: where the evidence for “{name}” lies (Grad-CAM, stage {stage} of 5). It is coarse, and says where the classifier looks, not whether it is right.",
    groupsTitle: "How it does by group: {where}", groupsOf: "{people} people, {photos} photos. In brackets: 95 % interval over people; of fewer than ten people there is none.",
    group: "Group", people: "People", wrong: "Wrong answers", wrongMask: "Wrong mask state",
    "more errors": "more than the others", "fewer errors": "fewer than the others", "can't tell": "no clear difference", "too few to tell": "too few to tell",
    mask: "Mask", gender: "Gender", age_group: "Age group",
    "worn": "worn", "incorrect": "incorrect", "not worn": "not worn", "male": "male", "female": "female",
    "under 30": "under 30", "30 to 59": "30 to 59", "over 59": "over 59",
    aboutTitle: "What this is, and what it cannot do",
    cannot: [
      "It estimates from one portrait whether a mask is worn, and guesses gender and age group by looks. It does not know who somebody is, their gender or their age.",
      "It knows two genders and three age groups, because its training photos were labelled so. Near the borders of 30 and 60 years, looks say little about the group.",
      "It was trained on upright portraits of one person. It answers for any picture, also where there is no face.",
      "It is no proof and no safety device: do not use it to decide about people.",
    ],
    model: "Model", backbone: "Backbone", size: "Sees", made: "Made", score: "Macro F1 of 18 classes", interval: "95 % interval", on: { validation: "validation people", holdout: "people unseen in the search", repeats: "people on whom the same recipe was not trained" }, f1: "{name} F1",
    cameraFailed: "The camera cannot be used: {why}. Allow it in the browser, or choose a photo.", insecure: "browsers allow it on this machine or by HTTPS only",
    noAnswer: "The service cannot be reached. Is it still running?", failed: "The service could not answer ({status}). Try again.",
    empty: "The photo is empty (0 bytes). Choose another one.", not_a_photo: "This is not a photo that can be read. Choose a JPEG, PNG or WebP file.",
    truncated: "The photo is incomplete: its end is missing. Choose another one.", unreadable: "The photo is damaged and cannot be read. Choose another one.",
    too_large: "The photo is larger than {body_mb} MB. Choose a smaller one.", too_many_pixels: "The photo has more than {megapixels} million pixels. Choose a smaller one.",
    too_small: "The photo is too small to show anything. Choose a larger one.", too_narrow: "The photo is too long and narrow. Choose another one.", too_complex: "The photo is stored in an unusual way. Save it again as JPEG.",
    busy: "Many photos are waiting. Try again in a moment.", timeout: "It took too long. Try again in a moment.", slow_body: "The photo took too long to arrive. Try a smaller one.",
  },
  ko: {
    title: "마스크, 성별, 나이",
    introduction: "얼굴 사진을 찍거나 고르면 분류기의 판단을 보여 줍니다. 사진은 한 번만 분석하고 어디에도 저장하지 않습니다.",
    introductionTogether: "얼굴 사진을 찍거나 고르면 분류기 {n}개의 확률을 평균한 판단을 보여 줍니다. 사진은 한 번만 분석하고 어디에도 저장하지 않습니다.",
    photo: "사진", answer: "결과", drop: "얼굴 사진을 여기에 놓으세요", orChoose: "파일을 고르거나, 붙여 넣거나, 카메라로 찍을 수도 있습니다",
    choose: "사진 고르기", camera: "카메라 쓰기", take: "사진 찍기", stop: "카메라 끄기",
    look: "카메라를 보고 사진을 찍으세요.", examples: "그려진 얼굴로 해 보기", example: "그려진 얼굴 {n}", yourPhoto: "분류한 사진",
    waiting: "사진을 기다리고 있습니다.", busyNow: "사진을 보고 있습니다 …", likely: "{name}일 가능성이 가장 높음 ({percent})", decided: "{name} ({percent}). 더 가능성 높은 답이 있지만, 드문 답도 흔한 답과 똑같이 중요하게 다룹니다.", notSure: "확신할 수 없음: 가장 나은 답도 {percent}", nothing: "이 사진에는 답이 없습니다.",
    noFace: "사진에서 얼굴을 찾지 못했습니다. 분류기는 어떤 사진에도 답하므로 이 답은 의미가 없을 수 있습니다. (마스크를 쓴 얼굴은 찾지 못하기도 합니다.)",
    manyFaces: "얼굴이 {n}개 보입니다. 분류기는 사진 전체에 대해 답 하나를 내므로 누구에 대한 답인지 알 수 없습니다.",
    largestFace: "얼굴이 {n}개 보입니다. 사진 가운데의 가장 큰 얼굴만 잘라 그 얼굴에 대해 답했습니다.",
    likelyAnyway: "얼굴이 있다면 {name}일 가능성이 가장 높음 ({percent})",
    explain: "판단 근거의 위치 보기", explaining: "근거를 찾고 있습니다 …", hide: "근거 숨기기",
    evidence: "분류기가 보는 사진. 빨간 곳에 답의 근거가 있습니다",
    evidenceNote: "빨간 곳에 ‘{name}’이라는 답의 근거가 있습니다 (Grad-CAM, 5단계 중 {stage}단계). 대략적인 위치이며, 분류기가 어디를 보는지 알려 줄 뿐 답이 맞는지는 알려 주지 않습니다.",
    groupsTitle: "집단별 성능: {where}", groupsOf: "{people}명, 사진 {photos}장. 대괄호는 사람 단위의 95 % 신뢰 구간이며, 10명 미만이면 없습니다.",
    group: "집단", people: "사람 수", wrong: "틀린 답", wrongMask: "틀린 마스크 상태",
    "more errors": "다른 집단보다 많음", "fewer errors": "다른 집단보다 적음", "can't tell": "뚜렷한 차이 없음", "too few to tell": "사람이 너무 적음",
    mask: "마스크", gender: "성별", age_group: "나이대",
    "worn": "바르게 씀", "incorrect": "잘못 씀", "not worn": "쓰지 않음", "male": "남성", "female": "여성",
    "under 30": "30세 미만", "30 to 59": "30~59세", "over 59": "60세 이상",
    aboutTitle: "이것은 무엇이고, 무엇을 할 수 없나",
    cannot: [
      "얼굴 사진 한 장으로 마스크를 썼는지 추정하고, 겉모습으로 성별과 나이대를 짐작합니다. 누구인지, 실제 성별이나 나이가 무엇인지는 모릅니다.",
      "학습 사진의 라벨이 그렇기 때문에 두 성별과 세 나이대만 압니다. 30세와 60세 근처에서는 겉모습만으로 나이대를 가르기 어렵습니다.",
      "한 사람의 똑바른 얼굴 사진으로 학습했습니다. 얼굴이 없는 사진에도 답을 냅니다.",
      "증거나 안전 장치가 아닙니다. 사람에 대한 결정을 내리는 데 쓰지 마세요.",
    ],
    model: "모델", backbone: "백본", size: "입력 크기", made: "만든 때", score: "18개 클래스 macro F1", interval: "95 % 신뢰 구간", on: { validation: "검증에 쓴 사람들", holdout: "탐색에 쓰지 않은 사람들", repeats: "같은 설정의 학습에 쓰지 않은 사람들" }, f1: "{name} F1",
    cameraFailed: "카메라를 쓸 수 없습니다: {why}. 브라우저에서 허용하거나 사진을 고르세요.", insecure: "브라우저는 이 컴퓨터나 HTTPS에서만 허용합니다",
    noAnswer: "서비스에 연결할 수 없습니다. 아직 실행 중인가요?", failed: "서비스가 답하지 못했습니다 ({status}). 다시 해 보세요.",
    empty: "빈 파일입니다 (0바이트). 다른 사진을 고르세요.", not_a_photo: "읽을 수 있는 사진이 아닙니다. JPEG, PNG, WebP 파일을 고르세요.",
    truncated: "사진의 끝부분이 없습니다. 다른 사진을 고르세요.", unreadable: "사진이 손상되어 읽을 수 없습니다. 다른 사진을 고르세요.",
    too_large: "사진이 {body_mb} MB보다 큽니다. 더 작은 사진을 고르세요.", too_many_pixels: "사진이 {megapixels}백만 화소보다 큽니다. 더 작은 사진을 고르세요.",
    too_small: "사진이 너무 작아 아무것도 보이지 않습니다. 더 큰 사진을 고르세요.", too_narrow: "사진이 너무 길고 좁습니다. 다른 사진을 고르세요.", too_complex: "사진이 특이한 방식으로 저장되어 있습니다. JPEG로 다시 저장하세요.",
    busy: "기다리는 사진이 많습니다. 잠시 후 다시 해 보세요.", timeout: "너무 오래 걸렸습니다. 잠시 후 다시 해 보세요.", slow_body: "사진이 도착하는 데 너무 오래 걸렸습니다. 더 작은 사진으로 해 보세요.",
  },
};
const TASKS = ["mask", "gender", "age_group"];
const EXAMPLES = 4;

const find = (selector) => document.querySelector(selector);
const [stage, image, video, input, status] = [".stage", ".stage img", "video", "input[type=file]", ".status"].map(find);
let language = (navigator.language || "en").toLowerCase().startsWith("ko") ? "ko" : "en";
let model = null; // what /v1/model says
let stream = null; // of the camera, while it is on
let shown = null; // the URL of the photo on the stage
let asking = null; // the request that is under way
let sent = null; // the photo that was sent last
let evidence = null; // where the evidence lies: null, "waiting", or what /v1/explain says, with the URL of its picture
let answer = { kind: "waiting" }; // what the page says, whatever the language
let said = null; // what the status line says: a function of the language

function text(key, values = {}) {
  return TEXTS[language][key].replace(/\{(\w+)\}/g, (whole, name) => values[name] ?? whole);
}

function make(tag, content = "", attributes = {}) {
  const element = document.createElement(tag);
  element.textContent = content;
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}

function say(what, bad = false) {
  said = what;
  status.textContent = what ? what() : "";
  status.classList.toggle("bad", bad);
}

// What is on the stage: "image", "video" or "invitation".
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

function percent(probability) {
  return Math.round(100 * probability) + "%";
}

function drawAnswer() {
  const sentence = find(".sentence");
  const note = find(".note");
  sentence.classList.toggle("busy", answer.kind !== "prediction");
  drawEvidence();
  note.hidden = true;
  if (answer.kind !== "prediction") {
    sentence.textContent = text(answer.kind);
    find(".tasks").replaceChildren();
    return;
  }
  const found = answer.prediction;
  const name = found.sure ? TASKS.map((task) => text(found[task])).join(", ") : "";
  // By the decision rule another class may be likelier than the one that is named.
  const isLikeliest = found.probability >= Math.max(...found.probabilities);
  const likely = !isLikeliest ? "decided" : found.faces === 0 ? "likelyAnyway" : "likely";
  sentence.textContent = text(found.sure ? likely : "notSure", { name, percent: percent(found.probability) });
  if (found.faces === 0 || found.faces > 1) {
    const cut = model && model.classifiers.every((each) => each.face_crop !== "none");
    note.textContent = found.faces ? text(cut ? "largestFace" : "manyFaces", { n: found.faces }) : text("noFace");
    note.hidden = false;
  }
  find(".tasks").replaceChildren(...TASKS.map((task) => drawTask(task, found.marginals[task], found[task])));
}

function drawEvidence() {
  const [button, figure] = [find(".explain"), find("#evidence")];
  find(".where").hidden = !(model && model.explains && answer.kind === "prediction" && answer.prediction.sure);
  const isShown = evidence !== null && evidence !== "waiting";
  button.textContent = text(isShown ? "hide" : evidence ? "explaining" : "explain");
  button.setAttribute("aria-expanded", isShown);
  figure.hidden = !isShown;
  if (!isShown) return;
  find("#evidence img").src = evidence.url;
  find("#evidence img").alt = text("evidence");
  const name = TASKS.map((task) => text(evidence[task])).join(", ");
  find("#evidence figcaption").textContent = text("evidenceNote", { name, stage: evidence.stage });
}

function forgetEvidence() {
  if (evidence && evidence.url) URL.revokeObjectURL(evidence.url);
  evidence = null;
}

async function explain() {
  if (evidence === "waiting") return;
  if (evidence) {
    forgetEvidence();
    return drawEvidence();
  }
  evidence = "waiting";
  say(null);
  drawEvidence();
  const photo = sent;
  try {
    const [response, content] = await post("/v1/explain", photo, asking.signal);
    if (photo !== sent) return; // a later photo was sent meanwhile
    forgetEvidence();
    if (!response.ok) sayRefused(content.error.code, response.status);
    else {
      const png = Uint8Array.from(atob(content.image), (one) => one.charCodeAt(0));
      evidence = { ...content, url: URL.createObjectURL(new Blob([png], { type: "image/png" })) };
    }
  } catch (error) {
    if (photo !== sent || error.name === "AbortError") return;
    forgetEvidence();
    sayRefused("noAnswer");
  }
  drawEvidence();
  find("#evidence").scrollIntoView({ block: "nearest" });
}

function drawTask(task, probabilities, best) {
  const card = make("div", "", { class: "task", id: task });
  const list = make("ul");
  for (const [label, probability] of Object.entries(probabilities)) {
    const line = make("li", "", { "data-label": label, class: label === best ? "best" : "" });
    const bar = make("progress", "", { max: 1, value: probability, "aria-label": text(label) });
    line.append(make("span", text(label)), make("span", percent(probability), { class: "percent" }), bar);
    list.append(line);
  }
  card.append(make("h2", text(task)), list);
  return card;
}

function drawAbout() {
  find(".cannot").replaceChildren(...TEXTS[language].cannot.map((line) => make("li", line)));
  if (!model) return;
  const several = model.classifiers.length > 1;
  find("header p").textContent = several ? text("introductionTogether", { n: model.classifiers.length }) : text("introduction");
  const facts = [[text("model"), model.name], [text("made"), model.created.slice(0, 10)]];
  for (const one of model.classifiers) facts.push([text("backbone"), one.backbone], [text("size"), `${one.image_size} × ${one.image_size} px`]);
  for (const [people, scores] of Object.entries(model.scores)) facts.push(...scoreLines(people, scores));
  find(".groups").replaceChildren(...(model.scores.groups || []).flatMap(drawGroups));
  find(".facts").replaceChildren(...facts.filter(([, value]) => value).flatMap(([name, value]) => [make("dt", name), make("dd", value)]));
}

// How well it does on these people: over all classes, and by mask, gender and age group where the bundle knows it.
function scoreLines(people, scores) {
  if (!scores || typeof scores.f1 !== "number") return [];
  const where = TEXTS[language].on[people] || people;
  const bounds = typeof scores.low === "number" ? `, ${text("interval")} ${scores.low.toFixed(3)} – ${scores.high.toFixed(3)}` : "";
  const lines = [[text("score"), `${scores.f1.toFixed(3)} (${where}${bounds})`]];
  for (const [key, task] of [["mask3", "mask"], ["gender2", "gender"], ["age3", "age_group"]]) {
    const f1 = scores.task_f1 && scores.task_f1[key];
    if (typeof f1 === "number") lines.push([text("f1", { name: text(task) }), `${f1.toFixed(3)} (${where})`]);
  }
  return lines;
}

// A table of how often it is wrong by group, over the people of one set.
function drawGroups(found) {
  const where = TEXTS[language].on[found.on] || found.on;
  const table = make("table");
  const head = make("tr");
  head.append(...["group", "people", "wrong", "wrongMask"].map((key) => make("th", text(key), { scope: "col" })));
  table.createTHead().append(head);
  const body = table.createTBody();
  for (const one of found.groups) {
    const row = body.insertRow();
    const wrong = make("td", share(one.wrong.class));
    wrong.append(make("small", text(one.verdict), { class: one.verdict === "more errors" ? "worse" : "" }));
    row.append(make("th", `${text(one.by)}: ${text(one.group)}`, { scope: "row" }), make("td", one.people), wrong, make("td", share(one.wrong.mask)));
  }
  const size = text("groupsOf", { people: found.people, photos: found.photos.toLocaleString("en") });
  return [make("h3", text("groupsTitle", { where })), make("p", size), table];
}

// A share in percent with its interval, if it has one.
function share([value, low, high]) {
  if (value === null) return "–";
  return percent(value) + (low === null ? "" : ` [${Math.round(100 * low)}–${Math.round(100 * high)}]`);
}

function translate() {
  document.documentElement.lang = language;
  document.title = text("title");
  for (const element of document.querySelectorAll("[data-text]")) {
    if (!element.classList.contains("sentence")) element.textContent = text(element.dataset.text);
  }
  image.alt = text("yourPhoto");
  input.setAttribute("aria-label", text("choose"));
  document.querySelectorAll(".examples img").forEach((one, n) => { one.alt = text("example", { n: n + 1 }); });
  const other = language === "en" ? "ko" : "en";
  find(".language").textContent = other === "ko" ? "한국어" : "English";
  find(".language").lang = other;
  if (said) status.textContent = said();
  drawAnswer();
  drawAbout();
}

function refuse(code, statusCode) {
  answer = { kind: "nothing" };
  drawAnswer();
  sayRefused(code, statusCode);
}

function sayRefused(code, statusCode) {
  say(() => (code in TEXTS.en ? text(code, model ? model.limits : {}) : text("failed", { status: statusCode })), true);
}

// The answer to a photo, and its JSON.
async function post(path, blob, signal) {
  const form = new FormData();
  form.append("file", blob, "photo");
  const response = await fetch(path, { method: "POST", body: form, signal });
  return [response, await response.json()];
}

async function classify(blob) {
  if (asking) asking.abort();
  const mine = (asking = new AbortController());
  if (shown) URL.revokeObjectURL(shown);
  shown = URL.createObjectURL(blob);
  image.src = shown;
  show("image");
  say(null);
  sent = blob;
  forgetEvidence();
  if (model && blob.size > model.limits.body_mb * 1e6) return refuse("too_large");
  answer = { kind: "busyNow" };
  drawAnswer();
  try {
    const [response, content] = await post("/v1/predict", blob, mine.signal);
    if (mine !== asking) return; // a later photo was sent meanwhile
    if (!response.ok) return refuse(content.error.code, response.status);
    answer = { kind: "prediction", prediction: content.predictions[0] };
    drawAnswer();
    find(".output").scrollIntoView({ block: "nearest" }); // on a phone it stands below the photo
  } catch (error) {
    if (mine === asking && error.name !== "AbortError") refuse("noAnswer");
  }
}

async function startCamera() {
  try {
    if (!navigator.mediaDevices) throw new Error(text("insecure"));
    stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "user" }, audio: false });
    video.srcObject = stream;
    await video.play();
    show("video");
    say(() => text("look"));
    find(".take").focus();
  } catch (error) {
    stopCamera();
    const why = error.message || error.name;
    say(() => text("cameraFailed", { why }), true);
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

function take(files) {
  if (files.length && !stream) classify(files[0]);
}

function drawExamples() {
  for (let n = 0; n < EXAMPLES; n++) {
    const url = `/examples/${n}.jpg`;
    const button = make("button", "", { type: "button" });
    button.append(make("img", "", { src: url, alt: "" }));
    button.addEventListener("click", async () => {
      stopCamera();
      try {
        classify(await (await fetch(url)).blob());
      } catch {
        refuse("noAnswer");
      }
    });
    find(".examples").append(button);
  }
}

image.addEventListener("error", () => show("invitation"));
for (const name of [".choose", ".invitation"]) find(name).addEventListener("click", () => input.click());
find(".explain").addEventListener("click", explain);
find(".camera").addEventListener("click", startCamera);
find(".take").addEventListener("click", takePhoto);
find(".stop").addEventListener("click", () => { stopCamera(); show(shown ? "image" : "invitation"); say(null); });
find(".language").addEventListener("click", () => { language = language === "en" ? "ko" : "en"; translate(); });
input.addEventListener("change", () => { take(input.files); input.value = ""; });
// Anywhere on the page: a photo that is dropped beside the stage would otherwise replace the page.
document.addEventListener("dragover", (event) => { event.preventDefault(); stage.classList.add("over"); });
document.addEventListener("dragleave", (event) => { if (!event.relatedTarget) stage.classList.remove("over"); });
document.addEventListener("drop", (event) => { event.preventDefault(); stage.classList.remove("over"); take(event.dataTransfer.files); });
document.addEventListener("paste", (event) => take([...event.clipboardData.files]));

show("invitation");
drawExamples();
translate();
fetch("/v1/model").then((response) => response.json()).then((facts) => { model = facts; drawAbout(); drawEvidence(); }).catch(() => say(() => text("noAnswer"), true));
