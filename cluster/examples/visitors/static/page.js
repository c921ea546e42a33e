// Counts what is left of the words, and says no before the document has to.
const words = document.querySelector("textarea");
if (words) {
  const count = document.createElement("span");
  count.id = "count";
  words.after(count);
  const show = () => { count.textContent = `${words.maxLength - words.value.length} characters left`; };
  words.addEventListener("input", show);
  show();
}
