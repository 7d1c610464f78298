// Images and videos on their way into a question: checked, read as data URLs, previewed.

const IMAGE_TYPES = ["image/png", "image/jpeg", "image/webp", "image/gif"];
const VIDEO_NAME = /\.(mp4|m4v|mov|3gp|mkv|webm|avi|flv|wmv|mpe?g|ts)$/i;
const MAX_IMAGE_BYTES = 20_000_000;
const ROOM_FOR_TEXT = 1_000_000;

const maxBodyBytes = Number(document.querySelector('meta[name="k25-max-body-bytes"]').content);

export function readableSize(bytes) {
  if (bytes < 1_000_000) return `${Math.max(1, Math.round(bytes / 1000))} kB`;
  return `${(bytes / 1_000_000).toFixed(1)} MB`;
}

function kindOf(file) {
  if (IMAGE_TYPES.includes(file.type)) return "image";
  return file.type.startsWith("video/") || (!file.type && VIDEO_NAME.test(file.name)) ? "video" : null;
}

// An attachment, or an Error that names the file and the remedy. `used` is the bytes of those already there.
export async function readAttachment(file, used) {
  const kind = kindOf(file);
  if (!kind) throw new Error(`${file.name}: attach png, jpeg, webp or gif images, or videos.`);
  if (!file.size) throw new Error(`${file.name} is empty.`);
  if (kind === "image" && file.size > MAX_IMAGE_BYTES) {
    throw new Error(`${file.name} has ${readableSize(file.size)}; images may have ${readableSize(MAX_IMAGE_BYTES)}.`);
  }
  const room = maxBodyBytes - ROOM_FOR_TEXT - used;
  if (encodedBytes(file.size) > room) {
    const left = readableSize(Math.max(0, (room * 3) / 4));
    throw new Error(`${file.name} has ${readableSize(file.size)}; this conversation has room for ${left} more.`);
  }
  return { kind, name: file.name, size: file.size, url: await dataUrl(file), preview: URL.createObjectURL(file) };
}

function encodedBytes(bytes) {
  return Math.ceil(bytes / 3) * 4;
}

export function usedBytes(attachments) {
  return attachments.reduce((sum, { url }) => sum + url.length, 0);
}

function dataUrl(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(new Error(`${file.name} cannot be read.`));
    reader.readAsDataURL(file);
  });
}

export function previewElement({ kind, name, size, preview }, large) {
  const element = document.createElement(kind === "image" ? "img" : "video");
  if (kind === "image") element.alt = name;
  else {
    element.controls = large;
    element.muted = true;
    element.preload = "metadata";
    element.setAttribute("aria-label", name);
  }
  element.title = `${name}, ${readableSize(size)}`;
  element.addEventListener("error", () => {
    const chip = document.createElement("span");
    chip.className = "file";
    chip.textContent = `${name} (${readableSize(size)})`;
    element.replaceWith(chip);
  });
  element.src = preview;
  return element;
}
