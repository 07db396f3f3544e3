-- Health of a TaskHub for Argo CD, read from its conditions. Without the string library, which Argo CD does not offer.
local status = obj.status or {}
local conditions = {}
for _, condition in ipairs(status.conditions or {}) do
  conditions[condition.type] = condition
end
local ready = conditions["Ready"]
local stalled = conditions["Stalled"]

if ready == nil then
  return {status = "Progressing", message = "the operator has not looked at it yet"}
end
local message = ready.reason .. ": " .. ready.message
if obj.metadata.deletionTimestamp ~= nil then
  return {status = "Progressing", message = "being deleted; " .. message}
end
if status.observedGeneration ~= obj.metadata.generation then
  return {status = "Progressing", message = "the operator has not looked at the latest change yet"}
end
if stalled ~= nil and stalled.status == "True" then
  return {status = "Degraded", message = message}
end
if ready.status == "True" then
  return {status = "Healthy", message = message}
end
return {status = "Progressing", message = message}
